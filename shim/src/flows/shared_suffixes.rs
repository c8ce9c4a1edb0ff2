//! Names below which anyone can have one of their own.

/// Some of them: storage, content networks and hosting that many customers share.
const SUFFIXES: [&str; 36] = [
    "amazonaws.com",
    "appspot.com",
    "azure-api.net",
    "azureedge.net",
    "azurefd.net",
    "azurewebsites.net",
    "backblazeb2.com",
    "blogspot.com",
    "cloudapp.azure.com",
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
    "ngrok.io",
    "onrender.com",
    "pages.dev",
    "r2.dev",
    "run.app",
    "servicebus.windows.net",
    "storage.googleapis.com",
    "supabase.co",
    "trafficmanager.net",
    "vercel.app",
    "web.app",
    "workers.dev",
];

/// The shared suffix of a host name.
pub(super) fn of(host: &str) -> Option<&'static str> {
    SUFFIXES
        .into_iter()
        .find(|suffix| host.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}
