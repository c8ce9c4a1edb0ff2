//! A name server whose records tests set.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};

use crate::netns::Netns;

/// A running name server.
#[derive(Debug, Clone)]
pub struct Dns {
    records: Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>,
    failing: Arc<Mutex<BTreeMap<String, Failure>>>,
    queries: Arc<AtomicU64>,
    query_counts: Arc<Mutex<BTreeMap<String, u64>>>,
    questions: Arc<Mutex<Vec<(String, RecordType)>>>,
    stop: Arc<AtomicBool>,
}

/// A failure of the name server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// SERVFAIL.
    ServerFailure,
    /// No answer.
    Silence,
    /// No answer to IPv6 queries.
    SilenceForIpv6,
}

impl Dns {
    /// Starts a name server at an address of a namespace.
    ///
    /// # Errors
    /// Fails if the address cannot be had.
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<Self> {
        let socket = netns.run(|| UdpSocket::bind(address))?.with_context(|| format!("DNS on {address}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let dns = Self {
            records: Arc::default(),
            failing: Arc::default(),
            queries: Arc::default(),
            query_counts: Arc::default(),
            questions: Arc::default(),
            stop: Arc::default(),
        };
        let server = dns.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !server.stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                if let Some(answer) = server.answer(&buffer[..length]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(dns)
    }

    /// Sets the addresses of a name.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.insert(format!("{name}."), addresses.to_vec());
        self.query_counts.lock().unwrap_or_else(PoisonError::into_inner).remove(&format!("{name}."));
    }

    /// Makes queries for a name fail until `recover`.
    pub fn fail(&self, name: &str, failure: Failure) {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).insert(format!("{name}."), failure);
    }

    /// Ends the failure of a name.
    pub fn recover(&self, name: &str) {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).remove(&format!("{name}."));
    }

    /// The number of queries.
    #[must_use]
    pub fn query_count(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }

    /// The number of queries for a name since its addresses were set.
    #[must_use]
    pub fn query_count_of(&self, name: &str) -> u64 {
        let query_counts = self.query_counts.lock().unwrap_or_else(PoisonError::into_inner);
        query_counts.get(&format!("{name}.")).copied().unwrap_or(0)
    }

    /// All queries so far: the name without its trailing dot, and the type.
    #[must_use]
    pub fn queries(&self) -> Vec<(String, RecordType)> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the server.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn answer(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let query = Message::from_vec(bytes).ok()?;
        let question = query.queries.first()?.clone();
        let name = question.name().to_ascii().to_ascii_lowercase();
        self.queries.fetch_add(1, Ordering::Relaxed);
        *self.query_counts.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default() +=
            1;
        let query_counts = (name.trim_end_matches('.').to_owned(), question.query_type());
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).push(query_counts);
        let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        let failure = self.failing.lock().unwrap_or_else(PoisonError::into_inner).get(&name).copied();
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        match records.get(&name) {
            _ if failure == Some(Failure::Silence) => return None,
            _ if failure == Some(Failure::SilenceForIpv6) && question.query_type() == RecordType::AAAA => {
                return None;
            }
            _ if failure == Some(Failure::ServerFailure) => {
                answer.metadata.response_code = ResponseCode::ServFail;
            }
            None => answer.metadata.response_code = ResponseCode::NXDomain,
            Some(addresses) => {
                for address in addresses {
                    let data = match (address, question.query_type()) {
                        (IpAddr::V4(v4), RecordType::A) => RData::A(A(*v4)),
                        (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA(AAAA(*v6)),
                        _ => continue,
                    };
                    answer.add_answer(Record::from_rdata(question.name().clone(), 5, data));
                }
            }
        }
        answer.add_query(question);
        answer.to_vec().ok()
    }
}
