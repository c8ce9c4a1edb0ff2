//! Names below which anyone can have one of their own.

use egress_policy::Host;

/// Some of them: storage, content networks, hosting and tunnels that many customers share.
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

/// The shared suffix of a host name.
#[must_use]
pub fn of(host: &str) -> Option<&'static str> {
    SUFFIXES.into_iter().find(|suffix| is_or_is_below(host, suffix))
}

/// The shared suffix below which a wildcard allows every name: the name that it stands before, or one below that.
pub(super) fn below(above: &Host) -> Option<&'static str> {
    // A whole top-level domain is said to be one.
    let above = Some(above.as_str()).filter(|above| above.contains('.'))?;
    SUFFIXES.into_iter().find(|suffix| is_or_is_below(suffix, above))
}

fn is_or_is_below(name: &str, above: &str) -> bool {
    name.strip_suffix(above).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
