//! How the secrets of access keys lie on a disk: sealed with a master key that does not.
//!
//! ```text
//! u8 version = 1 | nonce, 12 bytes | secret, encrypted | tag, 16 bytes
//! ```
//! AES-256-GCM. The associated data are the version, the access key id and the account, so that
//! a sealed secret is worth nothing in another key's record.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use objects::{AccountId, Secret};
use zeroize::Zeroizing;

use crate::random;

const VERSION: u8 = 1;

/// Bytes of a master key.
const KEY_BYTES: usize = 32;

/// Hexadecimal digits of a master key.
pub(crate) const MASTER_KEY_DIGITS: usize = 2 * KEY_BYTES;

/// What secrets are sealed with. Wiped from memory at its end.
pub(crate) struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey")
    }
}

impl MasterKey {
    /// A new one, from the system's randomness.
    pub(crate) fn generate() -> anyhow::Result<MasterKey> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        random::fill(&mut *bytes)?;
        Ok(MasterKey(bytes))
    }

    /// From 64 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<MasterKey> {
        if text.len() != MASTER_KEY_DIGITS || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(MasterKey(bytes))
    }

    /// As 64 hexadecimal digits.
    pub(crate) fn digits(&self) -> Zeroizing<String> {
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
        let digits = |byte: &u8| [digit(byte >> 4), digit(byte & 15)];
        Zeroizing::new(self.0.iter().flat_map(digits).collect())
    }

    /// Whether both are the same key.
    pub(crate) fn is(&self, other: &MasterKey) -> bool {
        *self.0 == *other.0
    }

    /// Seals the secret of a key.
    pub(crate) fn seal(
        &self,
        access_key_id: &str,
        account: AccountId,
        secret: &Secret,
    ) -> anyhow::Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        random::fill(&mut nonce)?;
        let mut text = secret.expose().as_bytes().to_vec();
        self.key()?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated(access_key_id, account)),
                &mut text,
            )
            .map_err(|_| anyhow::anyhow!("the secret cannot be sealed"))?;
        Ok([&[VERSION], &nonce[..], &text].concat())
    }

    /// Opens what [`MasterKey::seal`] sealed; `None` if it was something else.
    pub(crate) fn unseal(
        &self,
        access_key_id: &str,
        account: AccountId,
        sealed: &[u8],
    ) -> Option<Secret> {
        let (&version, rest) = sealed.split_first()?;
        if version != VERSION {
            return None;
        }
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut text = Zeroizing::new(text.to_vec());
        let opened = self.key().ok()?.open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(associated(access_key_id, account)),
            &mut text,
        );
        let opened = opened.ok()?;
        Some(Secret::new(std::str::from_utf8(opened).ok()?.to_owned()))
    }

    fn key(&self) -> anyhow::Result<LessSafeKey> {
        let key = UnboundKey::new(&AES_256_GCM, &*self.0);
        let key = key.map_err(|_| anyhow::anyhow!("the master key cannot be used"))?;
        Ok(LessSafeKey::new(key))
    }
}

/// What a sealed secret is bound to. Only the id is of any length, so that no two are the same.
fn associated(access_key_id: &str, account: AccountId) -> Vec<u8> {
    let account = account.number().to_le_bytes();
    [&[VERSION], access_key_id.as_bytes(), &account].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(number: u64) -> AccountId {
        AccountId::from_number(number).unwrap()
    }

    #[test]
    fn a_secret_comes_back_only_where_it_was_sealed() {
        let master = MasterKey::generate().unwrap();
        let secret = Secret::new("a secret of some length".to_owned());
        let sealed = master.seal("AK", account(7), &secret).unwrap();
        let again = master.seal("AK", account(7), &secret).unwrap();
        assert_ne!(sealed, again, "each has a nonce of its own");
        assert!(!sealed.windows(8).any(|part| part == b"a secret"));
        let opened = |master: &MasterKey, id: &str, of: u64, sealed: &[u8]| {
            let secret = master.unseal(id, account(of), sealed)?;
            Some(secret.expose().to_owned())
        };
        assert_eq!(
            opened(&master, "AK", 7, &sealed).as_deref(),
            Some(secret.expose())
        );
        assert_eq!(opened(&master, "AL", 7, &sealed), None);
        assert_eq!(opened(&master, "AK", 8, &sealed), None);
        let other = MasterKey::generate().unwrap();
        assert_eq!(opened(&other, "AK", 7, &sealed), None);
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert_eq!(opened(&master, "AK", 7, &bent), None, "byte {at}");
            assert_eq!(opened(&master, "AK", 7, &sealed[..at]), None, "{at} bytes");
        }
    }

    #[test]
    fn master_keys_are_64_digits() {
        let master = MasterKey::generate().unwrap();
        let digits = master.digits();
        assert!(MasterKey::parse(&digits).unwrap().is(&master));
        assert!(!MasterKey::generate().unwrap().is(&master));
        let upper = digits.to_ascii_uppercase();
        assert!(MasterKey::parse(&upper).unwrap().is(&master));
        for bad in ["", "00", &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
            assert!(MasterKey::parse(bad).is_none(), "{bad}");
        }
        assert!(!format!("{master:?}").contains(&digits[..8]));
    }
}
