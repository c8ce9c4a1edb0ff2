//! The flags that name the mesh and its objects.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use egress_compile::{CompileOptions, PolicyNamespaces};
use egress_policy::EncryptedHello;

/// The flags that name the mesh and its objects.
#[derive(Debug, Clone, Args)]
pub(super) struct MeshArgs {
    /// Name of the MeshConfig to use.
    #[arg(long, default_value = "osm-mesh-config")]
    mesh_config_name: String,
    /// Namespace of the MeshConfig to use.
    #[arg(long, default_value = "osm-system")]
    osm_namespace: String,
    /// Name of the mesh, in the label `openservicemesh.io/monitored-by` of its namespaces.
    #[arg(long, default_value = "osm")]
    mesh_name: String,
    /// Namespaces whose Egress objects count for service accounts of every namespace; several by commas, `*` for all.
    /// Others count for their own namespace, and where a Namespace's annotation
    /// `openservicemesh.io/egress-policy-namespaces` lists them. Default: the namespace of `--osm-namespace`.
    #[arg(long, value_name = "NAMESPACES")]
    policy_namespaces: Option<PolicyNamespaces>,
    /// Decision on encrypted ClientHellos, and the imitations that browsers send: `allow-outer` decides by the visible
    /// name, `refuse` refuses them. It applies to policies without the annotation `openservicemesh.io/egress-ech` whose
    /// hosts choose the address.
    #[arg(long, value_name = "WHAT", default_value = "allow-outer", value_parser = encrypted_hello())]
    encrypted_hello: EncryptedHello,
}

fn encrypted_hello() -> impl TypedValueParser<Value = EncryptedHello> {
    PossibleValuesParser::new(["allow-outer", "refuse"]).map(|word| match word.as_str() {
        "allow-outer" => EncryptedHello::AllowOuter,
        _ => EncryptedHello::Refuse,
    })
}

impl From<MeshArgs> for CompileOptions {
    fn from(mesh: MeshArgs) -> Self {
        let own = || PolicyNamespaces::one(&mesh.osm_namespace);
        Self {
            policy_namespaces: mesh.policy_namespaces.clone().unwrap_or_else(own),
            mesh_config_name: mesh.mesh_config_name,
            mesh_config_namespace: mesh.osm_namespace,
            mesh_name: mesh.mesh_name,
            encrypted_hello: mesh.encrypted_hello,
        }
    }
}
