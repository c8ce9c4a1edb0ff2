//! The root of a plugin: its configuration, its ticks, and the revocation that they carry out.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use egress_policy::{Plugin, Protocol};

use crate::config::Config;
use crate::decision_log;
use crate::enforcement;
use crate::host::PluginHost;
use crate::open_connections::revocation;
use crate::scope::{PluginHandle, Scope};
use crate::tick::{ActionKind, NEXT_TICK_DELAY, StreamAction};

/// The root of a plugin.
#[derive(Debug, Default)]
pub(crate) struct PluginRoot<H> {
    host: H,
    configured: Option<(Config, PluginHandle)>,
}

impl<H: PluginHost> PluginRoot<H> {
    /// The plugin that was configured.
    pub(crate) fn plugin(&self) -> Option<Plugin> {
        self.configured.as_ref().map(|(config, _)| config.plugin)
    }

    /// Configures the plugin, and returns whether the configuration is valid. Otherwise Envoy rejects the update and keeps
    /// the plugin that it had; without any it closes connections.
    pub(crate) fn configure(&mut self, bytes: &[u8]) -> bool {
        match Config::read(bytes) {
            Ok(config) => {
                let scope = Scope::configure(&config, self.host.now());
                // A tick reviews what is open, because host calls during the configuration concern no stream.
                self.host.set_tick_period(NEXT_TICK_DELAY);
                let handle = PluginHandle { scope, is_ticking: Rc::new(Cell::new(true)) };
                self.configured = Some((config, handle));
                true
            }
            Err(error) => {
                self.host.log_error(&["egress: configuration refused: ", &error].concat());
                self.configured = None;
                false
            }
        }
    }

    /// Makes the handle for a stream; a stream without one refuses everything.
    pub(crate) fn handle_for_stream(&self) -> Option<PluginHandle> {
        let (config, handle) = self.configured.as_ref()?;
        if handle.scope.notice_return(config, || self.host.now()) {
            handle.is_ticking.set(true);
            self.host.set_tick_period(NEXT_TICK_DELAY);
        }
        Some(handle.clone())
    }

    /// Carries out the work of a tick.
    pub(crate) fn on_tick(&self) {
        let Some((_, PluginHandle { scope, is_ticking })) = &self.configured else { return };
        let plan = scope.plan_tick(self.host.now());
        // Before any stream is selected.
        self.host.set_tick_period(plan.next.unwrap_or(Duration::ZERO));
        is_ticking.set(plan.next.is_some());
        for action in plan.actions {
            // The stream may have ended.
            if self.host.select_stream(action.id) {
                self.act(scope, &action);
            }
        }
    }

    /// Acts on the selected stream.
    fn act(&self, scope: &Scope, action: &StreamAction) {
        let policy = scope.newest().policy;
        match action.kind {
            ActionKind::TimeOut | ActionKind::Evict | ActionKind::Decide => {
                enforcement::end_wait(&self.host, scope, action.key, action.kind);
            }
            ActionKind::EvictPartialHeaders => enforcement::evict_partial_headers(&self.host, scope),
            ActionKind::CloseConnection(protocol) => {
                decision_log::log_decision(&self.host, Some(&policy), &revocation(), protocol);
                self.host.close();
            }
            ActionKind::ResetRequest => {
                decision_log::log_decision(&self.host, Some(&policy), &revocation(), Protocol::Http);
                self.host.reset_request();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_host::{FakeHost, config_text};
    use crate::open_connections::{FirstBytes, OpenConnection};
    use crate::route::Route;

    const RULES: &str = r#"[{"policy":"a/root","name":"n","port":22,"protocol":"tcp"}]"#;

    #[test]
    fn an_invalid_configuration_is_refused_with_its_reason() {
        let mut root = PluginRoot { host: FakeHost::default(), configured: None };
        assert!(root.configure(config_text("http", "enforce", "[]").as_bytes()));
        assert_eq!(root.plugin(), Some(Plugin::Http));
        assert!(root.handle_for_stream().is_some());
        let later = config_text("http", "enforce", "[]").replace("egress-policy/v1", "egress-policy/v2");
        assert!(!root.configure(later.as_bytes()));
        assert!(root.handle_for_stream().is_none() && root.plugin().is_none());
        let log = root.host.log.borrow().concat();
        let expected =
            "egress: configuration refused: policy: the policy document has the format `egress-policy/v2`";
        assert!(log.starts_with(expected), "{log}");
    }

    #[test]
    fn a_tick_closes_what_the_newest_policy_forbids_and_stops() {
        let mut root = PluginRoot { host: FakeHost::default(), configured: None };
        assert!(root.configure(config_text("network", "enforce", RULES).as_bytes()));
        let (scope, to) =
            (root.handle_for_stream().expect("configured").scope, "1.2.3.4:22".parse().expect("valid"));
        let open =
            OpenConnection { id: 7, to, first_bytes: FirstBytes::Unseen, route: Route::OriginalDestination };
        let _open = scope.open.insert(open);
        root.host.streams.insert(7, (to, to));
        root.on_tick();
        assert!(!root.host.closed.get());
        assert!(root.configure(config_text("network", "enforce", "[]").as_bytes()));
        assert_eq!(root.host.tick_period.get(), Some(NEXT_TICK_DELAY));
        root.on_tick();
        assert!(root.host.closed.get());
        assert_eq!(root.host.log_field("decision"), "deny revoked - -");
        assert_eq!(root.host.tick_period.get(), Some(Duration::ZERO));
    }
}
