//! Messages of gRPC that share their bytes.
//!
//! A generated service encodes each message into a buffer of its own stream, and keeps that buffer until the next one.
//! With a policy of 8 MiB for two plugins that was 32 MiB for each proxy. Here, a message is a list of pieces: bytes that
//! all streams share, and the policy's text, which is made as the proxy reads it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse, Resource as WireResource,
};
use envoy_types::pb::google::protobuf::Any;
use futures::task::AtomicWaker;
use hyper::body::{Body, Frame};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::codegen::http::HeaderMap;
use tonic::{Code, Status};

use super::session::Answer;
use egress_envoy::snapshot::{Piece, Resource};

/// Constant bytes below this size are copied together: each piece is a frame of HTTP/2.
const MIN_PIECE_SIZE: usize = 4 << 10;
/// The most pieces of a policy's text that a stream may have made and not yet sent.
const MAX_PIECES: usize = 2;
/// The field of both protocols' messages that holds the resources.
const RESOURCES: u32 = 2;
/// The field of a delta resource that holds its content, and of `Any` that holds its value.
const CONTENT: u32 = 2;

/// An encoded message, with its frame of gRPC.
#[derive(Debug, Default)]
pub(super) struct Message {
    pieces: VecDeque<Piece>,
    /// Constant bytes at the end, to which others may be added.
    tail: BytesMut,
    length: usize,
}

impl Message {
    /// A message of the state of the world.
    pub(super) fn sotw(answer: Answer) -> Self {
        let Answer { type_url, version_info, nonce, resources, removed_resources: _ } = answer;
        let head = DiscoveryResponse { version_info, type_url, nonce, ..Default::default() };
        let bodies = resources.into_iter().map(|resource| (any_head(&resource), resource));
        Self::new(&head.encode_to_vec(), bodies)
    }

    /// A message of changes.
    pub(super) fn delta(answer: Answer) -> Self {
        let Answer { type_url, version_info, nonce, resources, removed_resources } = answer;
        let head = DeltaDiscoveryResponse {
            system_version_info: version_info,
            type_url,
            nonce,
            removed_resources,
            ..Default::default()
        };
        let bodies = resources.into_iter().map(|resource| {
            let (name, version) = (resource.name().to_owned(), resource.version().to_owned());
            let mut head = WireResource { name, version, ..Default::default() }.encode_to_vec();
            let any = any_head(&resource);
            put_head(CONTENT, any.len() + resource.len(), &mut head);
            head.extend_from_slice(&any);
            (head, resource)
        });
        Self::new(&head.encode_to_vec(), bodies)
    }

    /// A message of a head and resources, each with what comes before its content.
    fn new(head: &[u8], resources: impl Iterator<Item = (Vec<u8>, Arc<Resource>)>) -> Self {
        let resources: Vec<_> = resources.collect();
        let length: usize = resources
            .iter()
            .map(|(head, resource)| head.len() + resource.len())
            .map(|length| key_len(RESOURCES) + encoded_len_varint(length as u64) + length)
            .sum();
        let mut message = Self { length: head.len() + length, ..Self::default() };
        // Not compressed.
        message.tail.put_u8(0);
        message.tail.put_u32(u32::try_from(head.len() + length).unwrap_or(u32::MAX));
        message.tail.put_slice(head);
        for (head, resource) in resources {
            put_head(RESOURCES, head.len() + resource.len(), &mut message.tail);
            message.tail.put_slice(&head);
            for piece in resource.pieces() {
                message.push(piece);
            }
        }
        message.flush();
        message
    }

    /// The length in bytes, without the frame of gRPC.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    fn push(&mut self, piece: Piece) {
        match piece {
            Piece::Bytes(bytes) if bytes.len() < MIN_PIECE_SIZE => self.tail.put_slice(&bytes),
            piece @ (Piece::Bytes(_) | Piece::Policy(_)) => {
                self.flush();
                self.pieces.push_back(piece);
            }
        }
    }

    fn flush(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(Piece::Bytes(std::mem::take(&mut self.tail).freeze()));
        }
    }
}

/// The bytes before the value of an `Any`.
fn any_head(resource: &Resource) -> Vec<u8> {
    let any = Any { type_url: resource.type_url().to_owned(), value: Vec::new() };
    let mut head = any.encode_to_vec();
    put_head(CONTENT, resource.len(), &mut head);
    head
}

/// The number and the length of a field.
fn put_head(field: u32, length: usize, to: &mut impl BufMut) {
    encode_key(field, WireType::LengthDelimited, to);
    encode_varint(length as u64, to);
}

/// The end of a stream at which messages are put in.
#[derive(Debug)]
pub(super) struct Sender {
    messages: mpsc::Sender<Result<Sent, Status>>,
    /// The place of the one message that may be on its way.
    place: Arc<Semaphore>,
    progress: Arc<Progress>,
}

/// A message that takes the stream's place until the last piece of it has gone: has been written to the connection, and
/// does not wait for the proxy to open its window.
#[derive(Debug)]
struct Sent {
    message: Message,
    place: Arc<OwnedSemaphorePermit>,
}

/// The progress of a stream.
#[derive(Debug, Default)]
struct Progress {
    /// The number of pieces that were sent.
    gone: AtomicU64,
    /// The number of pieces of a policy's text that were made and not sent.
    made: AtomicUsize,
    /// Whoever waits for one of those to go.
    waker: AtomicWaker,
}

/// The stream has no reader any more.
#[derive(Debug)]
pub(super) struct Closed;

impl Sender {
    /// Waits until the message before is on its way. Returns the place of the next one.
    pub(super) async fn ready(&self) -> Result<OwnedSemaphorePermit, Closed> {
        tokio::select! {
            biased;
            () = self.messages.closed() => Err(Closed),
            place = Arc::clone(&self.place).acquire_owned() => place.map_err(|_| Closed),
        }
    }

    /// The number of pieces that were sent: equal numbers mean that the proxy reads nothing.
    pub(super) fn progress(&self) -> u64 {
        self.progress.gone.load(Ordering::Relaxed)
    }

    /// Sends a message in a place.
    pub(super) fn send(&self, place: OwnedSemaphorePermit, message: Message) -> Result<(), Closed> {
        // There is room: the one before has been taken.
        self.messages.try_send(Ok(Sent { message, place: Arc::new(place) })).map_err(|_| Closed)
    }

    /// Ends the stream, once what is on its way was read.
    pub(super) fn end(&self, status: Status) {
        // A proxy that has not read what came before does not get to know why.
        let _ = self.messages.try_send(Err(status));
    }
}

/// The body of a stream's answer. `G` is held as long as there is a reader.
#[derive(Debug)]
pub(super) struct Answers<G> {
    messages: mpsc::Receiver<Result<Sent, Status>>,
    current: Option<Sent>,
    progress: Arc<Progress>,
    has_ended: bool,
    _guard: G,
}

/// A stream of messages.
pub(super) fn stream<G>(guard: G) -> (Sender, Answers<G>) {
    let (sender, receiver) = mpsc::channel(1);
    let progress = Arc::new(Progress::default());
    let place = Arc::new(Semaphore::new(1));
    let sender = Sender { messages: sender, place, progress: Arc::clone(&progress) };
    (sender, Answers { messages: receiver, current: None, progress, has_ended: false, _guard: guard })
}

/// A piece that is on its way until it is dropped.
struct OnItsWay {
    bytes: Bytes,
    /// True if it was made for this stream, and takes memory of its own.
    is_made: bool,
    progress: Arc<Progress>,
    _place: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for OnItsWay {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.progress.gone.fetch_add(1, Ordering::Relaxed);
        if self.is_made {
            self.progress.made.fetch_sub(1, Ordering::AcqRel);
            self.progress.waker.wake();
        }
    }
}

impl Progress {
    /// Waits until there is room for another piece of a text.
    fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        if self.made.load(Ordering::Acquire) < MAX_PIECES {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        // One may have gone meanwhile.
        if self.made.load(Ordering::Acquire) < MAX_PIECES { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Bytes that count until they have gone.
    fn send(self: &Arc<Self>, bytes: Bytes, is_made: bool, place: &Arc<OwnedSemaphorePermit>) -> Bytes {
        if is_made {
            self.made.fetch_add(1, Ordering::AcqRel);
        }
        let (progress, place) = (Arc::clone(self), Arc::clone(place));
        Bytes::from_owner(OnItsWay { bytes, is_made, progress, _place: place })
    }
}

impl<G: Unpin> Answers<G> {
    fn poll_bytes(&mut self, context: &Context<'_>) -> Poll<Option<Bytes>> {
        while let Some(Sent { message, place }) = &mut self.current {
            match message.pieces.front_mut() {
                Some(Piece::Policy(text)) => {
                    ready!(self.progress.poll_room(context));
                    match text.next() {
                        Some(text) => return Poll::Ready(Some(self.progress.send(text.into(), true, place))),
                        None => drop(message.pieces.pop_front()),
                    }
                }
                Some(Piece::Bytes(bytes)) => {
                    let bytes = self.progress.send(std::mem::take(bytes), false, place);
                    message.pieces.pop_front();
                    return Poll::Ready(Some(bytes));
                }
                None => self.current = None,
            }
        }
        Poll::Ready(None)
    }
}

impl<G: Unpin> Body for Answers<G> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if this.has_ended {
                return Poll::Ready(None);
            }
            if let Some(bytes) = ready!(this.poll_bytes(context)) {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let status = match ready!(this.messages.poll_recv(context)) {
                Some(Ok(sent)) => {
                    this.current = Some(sent);
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::new(Code::Ok, ""),
            };
            this.has_ended = true;
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::Any;
    use http_body_util::BodyExt;

    use super::*;
    use egress_envoy::snapshot::{Part, PolicyText};

    fn text(hosts: usize) -> Arc<PolicyText> {
        let hosts: Vec<String> = (0..hosts).map(|n| format!("h{n}.example.org")).collect();
        let document = serde_json::json!({
            "apiVersion": "egress-policy/v1", "identity": {"namespace": "ns", "serviceAccount": "sa"}, "version": "v", "mode": "enforce",
            "rules": [{"policy": "n/p", "name": "a", "port": 443, "protocol": "https", "hosts": hosts}],
        });
        Arc::new(PolicyText::new(Arc::new(serde_json::from_value(document).expect("a document"))))
    }

    fn answer(hosts: usize) -> Answer {
        let small = Resource::new("small".to_owned(), Any { type_url: "t".to_owned(), value: vec![1; 100] });
        let large = Any { type_url: "t".to_owned(), value: vec![2; 10_000] };
        let parts = vec![
            Part::Constant(Bytes::from_static(b"before")),
            Part::Nonce,
            Part::Policy(text(hosts)),
            Part::Constant(Bytes::from_static(b"after")),
        ];
        let resources = vec![
            Arc::new(small),
            Arc::new(Resource::new("large".to_owned(), large)),
            Arc::new(Resource::of_parts("policy".to_owned(), "p".to_owned(), parts)),
        ];
        Answer {
            type_url: "type".to_owned(),
            version_info: "7".to_owned(),
            nonce: "3".to_owned(),
            resources,
            removed_resources: vec!["gone".to_owned()],
        }
    }

    /// All bytes of a stream of one message.
    async fn bytes(message: Message) -> Vec<u8> {
        let (sender, mut answers) = stream(());
        let place = sender.ready().await.expect("a place");
        sender.send(place, message).expect("a reader");
        drop(sender);
        let mut bytes = Vec::new();
        while let Some(frame) = answers.frame().await {
            // Copied, so that it has gone.
            bytes.extend(frame.expect("no error").into_data().unwrap_or_default());
        }
        bytes
    }

    #[tokio::test]
    async fn messages_are_those_of_the_protocol() {
        for hosts in [0, 20_000] {
            let check = |values: Vec<(String, Vec<u8>)>| {
                let expected = String::from_utf8(text(hosts).pieces().flatten().collect()).expect("text");
                assert_eq!(values.len(), 3);
                assert_eq!(values[0], ("t".to_owned(), vec![1; 100]));
                assert_eq!(values[1], ("t".to_owned(), vec![2; 10_000]));
                let policy = String::from_utf8(values[2].1.clone()).expect("text");
                assert!(policy.starts_with("before0") && policy.ends_with(&format!("{expected}after")));
            };
            let sent = bytes(Message::sotw(answer(hosts))).await;
            assert_eq!(sent[0], 0);
            assert_eq!(u32::from_be_bytes([sent[1], sent[2], sent[3], sent[4]]) as usize, sent.len() - 5);
            let read = DiscoveryResponse::decode(&sent[5..]).expect("a message");
            assert_eq!((&*read.version_info, &*read.type_url, &*read.nonce), ("7", "type", "3"));
            check(read.resources.into_iter().map(|any| (any.type_url, any.value)).collect());

            let sent = bytes(Message::delta(answer(hosts))).await;
            assert_eq!(u32::from_be_bytes([sent[1], sent[2], sent[3], sent[4]]) as usize, sent.len() - 5);
            let read = DeltaDiscoveryResponse::decode(&sent[5..]).expect("a message");
            assert_eq!((&*read.system_version_info, &*read.type_url, &*read.nonce), ("7", "type", "3"));
            assert_eq!(read.removed_resources, ["gone"]);
            let names: Vec<&str> = read.resources.iter().map(|resource| resource.name.as_str()).collect();
            assert_eq!(names, ["small", "large", "policy"]);
            let all = answer(hosts);
            for (read, resource) in read.resources.iter().zip(&all.resources) {
                assert_eq!(read.version, resource.version());
            }
            let bodies = read.resources.into_iter().map(|resource| resource.resource.expect("a body"));
            check(bodies.map(|any| (any.type_url, any.value)).collect());
        }
    }

    /// Of a text that nobody reads no more than a few pieces are there.
    #[tokio::test]
    async fn no_message_is_encoded_without_a_reader() {
        let (sender, mut answers) = stream(());
        let place = sender.ready().await.expect("a place");
        sender.send(place, Message::sotw(answer(50_000))).expect("a reader");
        let mut held = Vec::new();
        let waker = futures::task::noop_waker();
        let mut context = Context::from_waker(&waker);
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut answers).poll_frame(&mut context) {
            held.push(frame.into_data().expect("data"));
        }
        let size: usize = held.iter().map(Bytes::len).sum();
        assert!(size < 100 << 10, "{size}");
        let before = sender.progress();
        assert!(futures::FutureExt::now_or_never(sender.ready()).is_none(), "the first is not on its way");
        held.clear();
        assert!(sender.progress() > before);
        assert!(matches!(Pin::new(&mut answers).poll_frame(&mut context), Poll::Ready(Some(Ok(_)))));
        drop(answers);
        assert!(sender.ready().await.is_err());
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_status() {
        let (sender, mut answers) = stream(());
        sender.end(Status::new(Code::ResourceExhausted, "too much"));
        let frame = answers.frame().await.expect("a frame").expect("no error");
        let trailers = frame.into_trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "8");
        assert_eq!(trailers["grpc-message"], "too%20much");
        assert!(answers.frame().await.is_none());
    }
}
