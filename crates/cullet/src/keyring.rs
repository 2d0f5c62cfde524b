//! The master key while the server runs: opens the secrets of access keys, seals new ones, and
//! is made when there is none and one is needed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use objects::{AccountId, Secret, Unseal};

use crate::credentials::{self, Settled};
use crate::sealing::MasterKey;

/// Holds the master key, if there is one yet.
pub(crate) struct Keyring {
    master: RwLock<Option<Arc<MasterKey>>>,
    /// Where one that is made is kept, or why nowhere.
    file: Result<PathBuf, String>,
    /// One is made at a time.
    making: Mutex<()>,
}

/// A secret that was sealed.
pub(crate) struct Sealed {
    pub(crate) bytes: Vec<u8>,
    /// Where the master key is kept that was made for it just now.
    pub(crate) made: Option<PathBuf>,
}

impl Keyring {
    /// With what the start found.
    pub(crate) fn new(settled: &mut Settled) -> Keyring {
        Keyring {
            master: RwLock::new(settled.master.take().map(Arc::new)),
            file: settled.file.clone(),
            making: Mutex::new(()),
        }
    }

    fn master(&self) -> Option<Arc<MasterKey>> {
        let master = self.master.read().unwrap_or_else(PoisonError::into_inner);
        master.clone()
    }

    /// Seals a secret. Blocks while a master key is made, which is durable before it is used.
    ///
    /// # Errors
    /// A sentence, if there is no master key and no place for one.
    pub(crate) fn seal(
        &self,
        access_key_id: &str,
        account: AccountId,
        secret: &Secret,
    ) -> anyhow::Result<Sealed> {
        let (master, made) = self.master_or_made()?;
        let bytes = master.seal(access_key_id, account, secret)?;
        Ok(Sealed { bytes, made })
    }

    fn master_or_made(&self) -> anyhow::Result<(Arc<MasterKey>, Option<PathBuf>)> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(master) = self.master() {
            return Ok((master, None));
        }
        let file = self.file.as_ref().map_err(|why| {
            anyhow::anyhow!(
                "there is no place for the master key that seals secrets ({why}): start the \
                 server with CULLET_MASTER_KEY, or with --credentials FILE"
            )
        })?;
        let (master, made) = credentials::make_master(file)?;
        let master = Arc::new(master);
        *self.master.write().unwrap_or_else(PoisonError::into_inner) = Some(master.clone());
        Ok((master, made.then(|| file.clone())))
    }
}

impl Unseal for Keyring {
    fn unseal(&self, access_key_id: &str, account: AccountId, sealed: &[u8]) -> Option<Secret> {
        self.master()?.unseal(access_key_id, account, sealed)
    }
}
