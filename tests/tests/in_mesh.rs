//! Services of the mesh are not egress: the mesh's own policy decides about them in every mode.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use egress_tests::access_log;
use egress_tests::client;
use egress_tests::manifests::{self, egress};
use egress_tests::mesh::{Reply, with_mesh};
use egress_tests::network::{ELSEWHERE, EXAMPLE};
use egress_tests::wait::wait_for;

/// A mesh service at `www.example.com`'s address, with the echo server behind it.
const SHOP_SERVICE: &str = "apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {openservicemesh.io/monitored-by: osm}}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 203.0.113.20, selector: {app: cart}, ports: [{port: 9000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec: {template: {metadata: {labels: {app: cart}}, spec: {serviceAccountName: cart}}}
";
const TRAFFIC_TARGET: &str = "apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {name: curl-to-cart, namespace: shop}
spec:
  destination: {kind: ServiceAccount, name: cart, namespace: shop}
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  rules: [{kind: TCPRoute, name: any}]
";
fn mesh_config(egress: bool, permissive: bool) -> String {
    manifests::mesh_config(&format!(
        "enableEgress: {egress}, enablePermissiveTrafficPolicyMode: {permissive}"
    ))
}

fn at(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, 9000)
}

#[test]
fn the_mesh_decides_about_its_own_services() -> Result<()> {
    let files = [
        ("mesh.yaml", mesh_config(false, false)),
        ("shop.yaml", SHOP_SERVICE.to_owned()),
        // It would open everything on that port, if it were egress.
        ("egress.yaml", egress("echo", "ports: [{number: 9000, protocol: tcp}]")),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    with_mesh(&files, |mesh| {
        let refused = || -> Result<()> {
            mesh.exchange(at(EXAMPLE), b"ping")?.expect_close()?;
            access_log::wait_for_line(mesh.envoy, "the refusal", |line| {
                line["decision"] == "deny in-mesh-denied shop/cart Service"
            })
            .map(|_| ())
        };
        refused()?;
        mesh.exchange(at(ELSEWHERE), b"ping")?.expect_echo(b"ping")?;
        ensure!(mesh.network.origins.connections_to(EXAMPLE) == 0, "it was let through");

        // Global egress does not open the mesh.
        mesh.write("mesh.yaml", &mesh_config(true, false))?;
        refused()?;
        mesh.exchange(at(ELSEWHERE), b"ping")?.expect_echo(b"ping")?;
        ensure!(mesh.network.origins.connections_to(EXAMPLE) == 0, "global egress opened the mesh");

        // A TrafficTarget opens it, and its removal closes those connections.
        mesh.write("target.yaml", TRAFFIC_TARGET)?;
        let mut stream =
            mesh.pod.workload().run(|| client::connect(at(EXAMPLE)))?.map_err(|e| anyhow!("{e:?}"))?;
        stream.write_all(b"ping")?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        mesh.remove("target.yaml")?;
        wait_for("the connection to end", Duration::from_secs(1), || {
            !matches!(stream.read(&mut answer), Ok(1..))
        })?;
        access_log::wait_for_decision(mesh.envoy, "deny revoked - -", "203.0.113.20:9000")?;

        // Permissive mode opens it for every identity.
        mesh.write("mesh.yaml", &mesh_config(false, true))?;
        mesh.exchange(at(EXAMPLE), b"ping")?.expect_echo(b"ping")?;
        access_log::wait_for_decision(mesh.envoy, "allow in-mesh shop/cart Service", "203.0.113.20:9000")?;

        // Other ports of its address are egress.
        let other = mesh.exchange(SocketAddr::new(EXAMPLE, 9001), b"")?;
        ensure!(other == Reply::Closed, "{other:?}");
        Ok(())
    })
}
