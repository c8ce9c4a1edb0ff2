use egress_policy::Host;

/// Suffixes below which anybody can get a name of their own: hosting, storage, tunnels.
const SUFFIXES: [&str; 35] = [
    "appspot.com",
    "azureedge.net",
    "azurefd.net",
    "azurewebsites.net",
    "backblazeb2.com",
    "blob.core.windows.net",
    "cloudapp.azure.com",
    "cloudapp.net",
    "cloudfront.net",
    "cloudfunctions.net",
    "digitaloceanspaces.com",
    "elasticbeanstalk.com",
    "firebaseapp.com",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "netlify.app",
    "ngrok-free.app",
    "ngrok.io",
    "ondigitalocean.app",
    "onrender.com",
    "pages.dev",
    "r2.cloudflarestorage.com",
    "r2.dev",
    "run.app",
    "s3.amazonaws.com",
    "storage.googleapis.com",
    "supabase.co",
    "trafficmanager.net",
    "trycloudflare.com",
    "vercel.app",
    "wasabisys.com",
    "web.app",
    "workers.dev",
];

/// The suffix below which anybody can get a name that `*.` before a name allows, if there is one.
#[must_use]
pub fn multi_tenant(above: &Host) -> Option<&'static str> {
    let above = above.as_str();
    // A whole top-level domain is said to be one.
    if !above.contains('.') {
        return None;
    }
    SUFFIXES.into_iter().find(|suffix| {
        let rest = suffix.strip_suffix(above);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}
