//! The settings in effect, also after `larder.toml` has changed.

use std::sync::Arc;

use tokio::sync::watch;

use super::Settings;

/// The settings in effect, which change when `larder.toml` does. `larder worker` gives handlers that ask for
/// `Data<LiveSettings>` its own.
///
/// ```
/// use larder::settings::{LiveSettings, Settings};
///
/// let live = LiveSettings::new(Settings::default());
/// let handler = live.clone();
/// let mut changed = Settings::default();
/// changed.worker.concurrency = 4;
/// live.replace(changed);
/// assert_eq!(handler.current().worker.concurrency, 4);
/// ```
#[derive(Clone, Debug)]
pub struct LiveSettings {
    settings: watch::Sender<Arc<Settings>>,
}

impl LiveSettings {
    /// These settings, until they are replaced.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings: watch::Sender::new(Arc::new(settings)),
        }
    }

    /// What is in effect now.
    #[must_use]
    pub fn current(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// Puts other settings in their place, for all who share them.
    pub fn replace(&self, settings: Settings) {
        self.settings.send_replace(Arc::new(settings));
    }

    /// Tells of each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }
}
