//! Tokens of service accounts.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::KeyPair;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use super::{ApiServer, User};

impl ApiServer<'_> {
    /// Creates a service account and returns its uid.
    ///
    /// # Errors
    /// Fails if kubectl fails.
    pub fn service_account(&self, namespace: &str, name: &str) -> Result<String> {
        self.kubectl(User::Admin, &["create", "serviceaccount", name, "-n", namespace])?;
        let path = "jsonpath={.metadata.uid}";
        self.kubectl(User::Admin, &["get", "serviceaccount", name, "-n", namespace, "-o", path])
    }

    /// Requests a token as the kubelet does, bound to a pod if one is named.
    ///
    /// # Errors
    /// Fails if kubectl fails.
    pub fn token(&self, namespace: &str, name: &str, audience: &str, pod: Option<&str>) -> Result<String> {
        let mut request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 600},
        });
        if let Some(pod) = pod {
            request["spec"]["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Pod", "name": pod});
        }
        let file = self.folder.path().join("token-request.json");
        fs::write(&file, request.to_string())?;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let answer = self.kubectl(User::Admin, &["create", "--raw", &path, "-f", &file.to_string_lossy()])?;
        let answer: Value = serde_json::from_str(&answer)?;
        Ok(answer["status"]["token"].as_str().context("no token")?.to_owned())
    }

    /// Signs a token of a service account with this uid, with the API server's own key, for a lifetime in
    /// seconds. The API server itself issues none for less than ten minutes.
    ///
    /// # Errors
    /// Fails if it cannot be signed.
    pub fn sign(
        &self,
        (namespace, name, uid): (&str, &str, &str),
        audience: &str,
        expires: i64,
    ) -> Result<String> {
        let key = KeyPair::from_pem(&fs::read_to_string(self.folder.path().join("account.key"))?)?;
        sign(&key, (namespace, name, uid), audience, expires)
    }
}

/// Signs a token with any key.
///
/// # Errors
/// Fails if it cannot be signed.
pub fn sign(
    key: &KeyPair,
    (namespace, name, uid): (&str, &str, &str),
    audience: &str,
    expires: i64,
) -> Result<String> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let claims = json!({
        "iss": "https://kubernetes.default.svc",
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "aud": [audience],
        "iat": now - 3600,
        "nbf": now - 3600,
        "exp": now + expires,
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}},
    });
    let encoded = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encoded(json!({"alg": "ES256"})), encoded(claims));
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random)
        .map_err(|error| anyhow!("the key cannot sign: {error}"))?;
    let signature = key.sign(&random, signed.as_bytes()).map_err(|_| anyhow!("it cannot be signed"))?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
}
