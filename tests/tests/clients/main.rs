//! Real client programs behind a sidecar: each reaches the allowed host and not the forbidden one.

mod databases;
mod servers;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use egress_tests::authority::{Authority, Names};
use egress_tests::grpc::GrpcServer;
use egress_tests::netns::{Pod, ensure_capable, find_tool};
use egress_tests::network::{EXAMPLE, HTTPBIN, NAME_SERVER, TestNetwork};
use egress_tests::repository_root;
use egress_tests::sidecar;
use egress_tests::wait::wait_for;

use self::databases::Databases;
use self::servers::Servers;

/// The policies of the workload, by name and by address.
const POLICIES: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: files, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [files.example]
  ports:
  - {number: 4443, protocol: https}
  - {number: 443, protocol: https}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: plain, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [files.example]
  ports: [{number: 8081, protocol: http}, {number: 50051, protocol: http}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: services, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  ipAddresses: [203.0.113.10/32]
  ports: [{number: 5432, protocol: tcp}, {number: 6379, protocol: tcp}, {number: 2222, protocol: tcp}]
";
/// The allowed name, at an allowed address.
const ALLOWED_HOST: &str = "files.example";
/// A forbidden name, at another address.
const FORBIDDEN_HOST: &str = "other.example";

/// A client program.
struct Client {
    name: &'static str,
    /// The program that must be installed.
    program: &'static str,
    /// The script to run: `$HOST`, `$URL` (HTTPS), `$PLAIN` (HTTP), `$CA`, `$TOOLS`, and `$DIR`, an empty
    /// folder.
    script: &'static str,
    /// A text that the script prints if it gets its answer, and only then.
    prints: &'static str,
}

const fn client(
    name: &'static str,
    program: &'static str,
    prints: &'static str,
    script: &'static str,
) -> Client {
    Client { name, program, script, prints }
}

const FILE: &str = "hello from the files";
/// Debian's Python, which has Debian's packages.
const PYTHON: &str = "/usr/bin/python3";

const CLIENTS: [Client; 22] = [
    client("curl", "curl", FILE, "curl -sS --fail --cacert $CA $URL/get"),
    client("curl, HTTP", "curl", FILE, "curl -sS --fail $PLAIN/get"),
    client("curl, HTTP/2", "curl", "GET files.example/get", "curl -sS --fail -k --http2 https://$HOST/get"),
    client(
        "git",
        "git",
        "hello",
        "git -c http.sslCAInfo=$CA clone -q $URL/repo.git $DIR/clone && cat $DIR/clone/file",
    ),
    client(
        "pip",
        "python3",
        "hello-1.0-py3-none-any.whl",
        "python3 -m pip download -q --no-deps --no-cache-dir --retries 0 --disable-pip-version-check --isolated \
         --index-url $URL/simple/ --cert $CA -d $DIR hello==1.0 && ls $DIR",
    ),
    client(
        "apt",
        "apt-get",
        "deb_._Packages",
        "echo \"deb [trusted=yes] $PLAIN/deb ./\" > $DIR/list && mkdir -p $DIR/state/lists/partial $DIR/cache && \
         apt-get -qq -o Dir::Etc::sourcelist=$DIR/list -o Dir::Etc::sourceparts=- -o Dir::State=$DIR/state \
         -o Dir::Cache=$DIR/cache -o APT::Sandbox::User=root -o Acquire::http::Proxy=DIRECT -o Acquire::Retries=0 \
         -o APT::Update::Error-Mode=any update && ls $DIR/state/lists",
    ),
    client(
        "npm",
        "npm",
        "1.0.0",
        "NPM_CONFIG_USERCONFIG=/dev/null npm view hello version --registry $URL/ --cafile=$CA --cache $DIR/npm \
         --fetch-retries 0 --no-update-notifier",
    ),
    client(
        "node, fetch",
        "node",
        FILE,
        "NODE_EXTRA_CA_CERTS=$CA node -e 'fetch(process.env.URL + \"/get\").then(async (answer) => { \
         console.log(await answer.text()); process.exit(answer.ok ? 0 : 1); }, (error) => { \
         console.error(error.cause ?? error); process.exit(1); })'",
    ),
    client(
        "Java's HttpClient",
        "java",
        FILE,
        "java -Djavax.net.ssl.trustStore=$TOOLS/trust.p12 -Djavax.net.ssl.trustStorePassword=changeit -cp $TOOLS/classes:$JARS Clients jdk $URL/get",
    ),
    // It offers `h2c`.
    client("Java's HttpClient, HTTP", "java", FILE, "java -cp $TOOLS/classes:$JARS Clients jdk $PLAIN/get"),
    client(
        "Apache HttpClient 5",
        "java",
        FILE,
        "java -Djavax.net.ssl.trustStore=$TOOLS/trust.p12 -Djavax.net.ssl.trustStorePassword=changeit -cp $TOOLS/classes:$JARS Clients apache $URL/get",
    ),
    client(
        "Apache HttpClient 5, HTTP",
        "java",
        FILE,
        "java -cp $TOOLS/classes:$JARS Clients apache $PLAIN/get",
    ),
    // The bytes that version 5.4 and later send; Debian has an older one.
    client(
        "Apache HttpClient 5.4's headers",
        "curl",
        FILE,
        "curl -sS --fail -H 'Connection: Upgrade' -H 'Upgrade: TLS/1.2' -A 'Apache-HttpClient/5.4 (Java/17)' $PLAIN/get",
    ),
    client(
        "Python, requests",
        PYTHON,
        FILE,
        "/usr/bin/python3 -c 'import os, requests; answer = requests.get(os.environ[\"URL\"] + \"/get\", \
         verify=os.environ[\"CA\"], timeout=10); answer.raise_for_status(); print(answer.text)'",
    ),
    client(
        "Python, httpx",
        PYTHON,
        FILE,
        "/usr/bin/python3 -c 'import os, httpx; answer = httpx.get(os.environ[\"URL\"] + \"/get\", \
         verify=os.environ[\"CA\"]); answer.raise_for_status(); print(answer.text)'",
    ),
    client(
        "Python, aiohttp",
        PYTHON,
        FILE,
        "/usr/bin/python3 -c '\
import aiohttp, asyncio, os, ssl
async def main():
    context = ssl.create_default_context(cafile=os.environ[\"CA\"])
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        async with session.get(os.environ[\"URL\"] + \"/get\", ssl=context) as answer:
            print(await answer.text())
asyncio.run(main())'",
    ),
    client(
        "Python, grpcio",
        PYTHON,
        "said: hello",
        // A message with one field of text.
        "/usr/bin/python3 -c '\
import grpc, os
with grpc.insecure_channel(os.environ[\"HOST\"] + \":50051\") as channel:
    answer = channel.unary_unary(\"/egress.Echo/Say\")(b\"\\x0a\\x05hello\", timeout=5)
    print(\"said:\", answer.decode(errors=\"replace\").split()[-1])'",
    ),
    client(
        "psql",
        "psql",
        "hello",
        "psql \"host=$HOST port=5432 user=a dbname=postgres sslmode=disable connect_timeout=5\" -XAtc \"select 'hello'\"",
    ),
    client("redis-cli", "redis-cli", "PONG", "redis-cli -h $HOST -p 6379 ping"),
    client(
        "ssh",
        "ssh",
        "hello by ssh",
        "ssh -F /dev/null -p 2222 -i $TOOLS/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
         -o BatchMode=yes -o ConnectTimeout=5 -o LogLevel=ERROR root@$HOST echo hello by ssh",
    ),
    client(
        "openssl",
        "openssl",
        "CONNECTION ESTABLISHED",
        // With post-quantum groups where this openssl has them (3.5); those of Chromium are in its ClientHello anyway.
        "groups=$(openssl list -kem-algorithms 2> /dev/null | grep -q X25519MLKEM768 && \
         echo '-groups X25519MLKEM768:X25519'); openssl s_client -brief -connect $HOST:4443 -servername $HOST -CAfile $CA \
         -verify_return_error $groups < /dev/null",
    ),
    client(
        "Chromium",
        "chromium",
        "hello from the page",
        "chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
         --disable-component-update --disable-sync --user-data-dir=$DIR/chromium --ignore-certificate-errors \
         --dump-dom $URL/page.html",
    ),
];

const JARS: &str = "/usr/share/java/httpclient5.jar:/usr/share/java/httpcore5.jar:/usr/share/java/httpcore5-h2.jar:/usr/share/java/slf4j-api.jar:\
    /usr/share/java/slf4j-nop.jar";

/// A process that is killed when this is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn real_programs_reach_the_allowed_host_only() -> Result<()> {
    ensure_capable()?;
    let programs = CLIENTS.iter().map(|client| client.program).chain(["pg_ctlcluster", "redis-server"]);
    let missing: Vec<&str> = programs.filter(|program| !is_there(program)).collect();
    ensure!(missing.is_empty(), "{missing:?} are missing: `cargo xtask test` installs them");
    let network = TestNetwork::new()?;
    network.dns.set(ALLOWED_HOST, &[HTTPBIN]);
    network.dns.set(FORBIDDEN_HOST, &[EXAMPLE]);
    network.write("policies.yaml", POLICIES)?;
    let folder = tempfile::tempdir()?;
    let (files, tools) = (folder.path().join("files"), folder.path().join("tools"));
    for part in [&files, &tools] {
        fs::create_dir(part)?;
    }
    let authority = Authority::new()?;
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, &authority.pem)?;
    let output = Command::new("bash")
        .arg(repository_root().join("tests/tests/clients/prepare.sh"))
        .envs([("FILES", &files), ("TOOLS", &tools), ("CA", &ca)])
        .env("JAVA", repository_root().join("tests/tests/clients/Clients.java"))
        .env("JARS", JARS)
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let outside = &network.outside.netns;
    let pair = authority.issue(&Names { hosts: &[ALLOWED_HOST, FORBIDDEN_HOST], ..Names::default() })?;
    let servers = Servers::start(outside, &files, &pair)?;
    let _grpc = GrpcServer::start(outside)?;
    let databases = Databases::start(outside, &tools)?;
    let mut sshd = outside.command("/usr/sbin/sshd");
    sshd.args(["-D", "-e", "-f"]).arg(tools.join("sshd.conf"));
    let _sshd = Server(sshd.stderr(fs::File::create(tools.join("sshd.log"))?).spawn()?);

    let pod = network.pod()?;
    let _control_plane = network.control_plane(&[])?;
    let _envoy = sidecar::start(&pod, false)?;
    let run = |client: &Client, host: &str| attempt(&pod, client, host, &[("CA", &ca), ("TOOLS", &tools)]);
    let ssh = CLIENTS.iter().find(|client| client.name == "ssh").context("no ssh")?;
    wait_for("the SSH server", Duration::from_secs(10), || {
        run(ssh, ALLOWED_HOST).is_ok_and(|answer| answer.0)
    })
    .with_context(|| {
        format!("{:?} {:?}", run(ssh, ALLOWED_HOST), fs::read_to_string(tools.join("sshd.log")))
    })?;

    let mut failures = Vec::new();
    for client in &CLIENTS {
        let start = Instant::now();
        let (done, message) = run(client, ALLOWED_HOST)?;
        let allowed = start.elapsed();
        if !done || !message.contains(client.prints) {
            failures.push(format!("{} does not get what it may have: {message}", client.name));
        }
        let accepted =
            || (servers.accepted() + databases.accepted(), network.origins.connections_to(EXAMPLE));
        let before = accepted();
        let (done, message) = run(client, FORBIDDEN_HOST)?;
        let after = accepted();
        println!("{}: {allowed:.1?}, refused after {:.1?}", client.name, start.elapsed() - allowed);
        if message.contains(client.prints) || before != after || done && client.name != "Chromium" {
            failures
                .push(format!("{} gets what it may not have, {before:?} {after:?}: {message}", client.name));
        }
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}

fn is_there(program: &str) -> bool {
    if program.starts_with('/') { Path::new(program).is_file() } else { find_tool(program).is_some() }
}

/// Runs a program in the workload. Returns true if it succeeded, and its output.
fn attempt(pod: &Pod, client: &Client, host: &str, paths: &[(&str, &Path)]) -> Result<(bool, String)> {
    let folder = tempfile::tempdir()?;
    let mut command = pod.command("timeout", NAME_SERVER)?;
    command
        .args(["--kill-after", "1", "30", "bash", "-c", client.script])
        .current_dir(folder.path())
        // The environment must not add proxies, certificates or options.
        .env_clear()
        .envs(["PATH", "PYENV_ROOT"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .envs(paths.iter().copied())
        .env("LANG", "C.UTF-8")
        .env("DIR", folder.path())
        .env("HOME", folder.path())
        .env("HOST", host)
        .env("URL", format!("https://{host}:{}", servers::HTTPS_PORT))
        .env("PLAIN", format!("http://{host}:{}", servers::HTTP_PORT))
        .env("JARS", JARS);
    let output = command.output()?;
    let message =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).join("\n");
    Ok((output.status.success(), message.trim().chars().take(2000).collect()))
}
