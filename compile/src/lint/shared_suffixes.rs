//! Suffixes below which anyone can register a name: the public suffix list, and others that it lacks.

use egress_policy::Host;

/// Storage, content networks, hosting and tunnels that many customers share. Some are not in the public suffix
/// list; for others, only names below them are.
const SUFFIXES: [&str; 43] = [
    "amazonaws.com",
    "appspot.com",
    "azure-api.net",
    "azureedge.net",
    "azurefd.net",
    "azurewebsites.net",
    "backblazeb2.com",
    "blob.core.windows.net",
    "blogspot.com",
    "cloudapp.azure.com",
    "cloudapp.net",
    "cloudflarestorage.com",
    "cloudfront.net",
    "cloudfunctions.net",
    "core.windows.net",
    "digitaloceanspaces.com",
    "elasticbeanstalk.com",
    "fastly.net",
    "firebaseapp.com",
    "firebaseio.com",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "googleusercontent.com",
    "herokuapp.com",
    "netlify.app",
    "ngrok-free.app",
    "ngrok.io",
    "ondigitalocean.app",
    "onrender.com",
    "pages.dev",
    "r2.dev",
    "run.app",
    "s3.amazonaws.com",
    "servicebus.windows.net",
    "storage.googleapis.com",
    "supabase.co",
    "trafficmanager.net",
    "trycloudflare.com",
    "vercel.app",
    "wasabisys.com",
    "web.app",
    "workers.dev",
];

/// Finds the suffix of a host that many customers of one company share.
#[must_use]
pub fn find(host: &str) -> Option<String> {
    let own = SUFFIXES.into_iter().find(|suffix| is_or_is_below(host, suffix)).map(str::to_owned);
    // Every name has a suffix that belongs to a registry and not to a company.
    own.or_else(|| {
        public_suffix(host).filter(|suffix| suffix.typ() == Some(psl::Type::Private)).and_then(suffix_text)
    })
}

/// Finds the shared suffix below which the wildcard `*.above` allows every name: `above` itself, or a name
/// below it.
pub(super) fn find_below(above: &Host) -> Option<String> {
    // A whole top-level domain is reported elsewhere.
    let above = Some(above.as_str()).filter(|above| above.contains('.'))?;
    let is_suffix = public_suffix(above).and_then(suffix_text).filter(|suffix| suffix == above);
    is_suffix.or_else(|| SUFFIXES.into_iter().find(|suffix| is_or_is_below(suffix, above)).map(str::to_owned))
}

/// Looks up the public suffix of a name.
fn public_suffix(host: &str) -> Option<psl::Suffix<'_>> {
    psl::suffix(host.as_bytes()).filter(psl::Suffix::is_known)
}

fn suffix_text(suffix: psl::Suffix<'_>) -> Option<String> {
    String::from_utf8(suffix.as_bytes().to_vec()).ok()
}

fn is_or_is_below(name: &str, above: &str) -> bool {
    name.strip_suffix(above).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_suffixes_are_found() {
        for (host, of_wildcard, of_host) in [
            ("co.uk", Some("co.uk"), None),
            ("example.co.uk", None, None),
            ("gov.au", Some("gov.au"), None),
            ("github.io", Some("github.io"), Some("github.io")),
            ("octocat.github.io", None, Some("github.io")),
            ("s3.amazonaws.com", Some("s3.amazonaws.com"), Some("amazonaws.com")),
            ("amazonaws.com", Some("amazonaws.com"), Some("amazonaws.com")),
            ("windows.net", Some("blob.core.windows.net"), None),
            ("uk", None, None),
            ("example.com", None, None),
            ("svc.cluster.local", None, None),
            ("corp.internal", None, None),
        ] {
            let name = Host::canonical(host).expect("a name");
            assert_eq!(find_below(&name).as_deref(), of_wildcard, "*.{host}");
            assert_eq!(find(host).as_deref(), of_host, "{host}");
        }
    }
}
