//! Keys that SigV4 signatures are verified with, kept for their day.
//!
//! A signing key is derived from a secret, the day, the region and the service by four HMACs,
//! which is most of what a verification costs. (AWS Signature Version 4, "Calculate the
//! signature".)
//!
//! What must always hold: a kept key counts for the very secret that it was derived from. Who
//! asks has looked that up anew, so that a key which was disabled or rotated verifies nothing.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use hmac::{Hmac, KeyInit, Mac};
use objects::Secret;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::limits::SIGNING_KEYS_MAX;

type HmacSha256 = Hmac<Sha256>;

/// The signing keys of one region for S3. Wiped when they are dropped.
pub(crate) struct SigningKeys {
    region: String,
    /// By access key, the latest that was used.
    kept: RwLock<HashMap<String, Kept>>,
}

struct Kept {
    day: [u8; 8],
    secret: Secret,
    /// Has taken the key, and no message yet.
    hmac: HmacSha256,
}

impl SigningKeys {
    pub(crate) fn new(region: String) -> SigningKeys {
        SigningKeys {
            region,
            kept: RwLock::default(),
        }
    }

    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    /// Whether `signature` is that of these pieces of text, made with `secret` on `day` (`20260131`). Takes
    /// the same time whatever is wrong with it.
    pub(crate) fn verify(
        &self,
        access_key: &str,
        secret: &Secret,
        day: [u8; 8],
        text: &[&str],
        signature: &[u8; 32],
    ) -> bool {
        let verifies = |mut hmac: HmacSha256| {
            text.iter().for_each(|piece| hmac.update(piece.as_bytes()));
            hmac.verify_slice(signature).is_ok()
        };
        if let Some(hmac) = self.get(access_key, secret, day) {
            return verifies(hmac);
        }
        let hmac = self.derive(secret, day);
        let verified = verifies(hmac.clone());
        if verified {
            self.keep(access_key, secret, day, hmac);
        }
        verified
    }

    fn get(&self, access_key: &str, secret: &Secret, day: [u8; 8]) -> Option<HmacSha256> {
        let keys = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let key = keys.get(access_key)?;
        (key.day == day && key.secret.is(secret)).then(|| key.hmac.clone())
    }

    fn derive(&self, secret: &Secret, day: [u8; 8]) -> HmacSha256 {
        let seed = Zeroizing::new([b"AWS4", secret.expose().as_bytes()].concat());
        let scope: [&[u8]; 4] = [&day, self.region.as_bytes(), b"s3", b"aws4_request"];
        scope.iter().fold(keyed(&seed), |mut hmac, part| {
            hmac.update(part);
            keyed(&hmac.finalize().into_bytes())
        })
    }

    fn keep(&self, access_key: &str, secret: &Secret, day: [u8; 8], hmac: HmacSha256) {
        let secret = secret.clone();
        let mut keys = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= SIGNING_KEYS_MAX && !keys.contains_key(access_key) {
            // Rare, and they are soon derived again.
            keys.clear();
        }
        keys.insert(access_key.to_owned(), Kept { day, secret, hmac });
    }
}

fn keyed(key: &[u8]) -> HmacSha256 {
    match HmacSha256::new_from_slice(key) {
        Ok(hmac) => hmac,
        // HMAC takes keys of every length.
        Err(_) => unreachable!("HMAC refused a key"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(secret: &str, day: &str, text: &str) -> [u8; 32] {
        let date = s3s_sigv4::AmzDate::parse(&format!("{day}T000000Z")).unwrap();
        let key = s3s_sigv4::derive_signing_key(secret, &date, "us-east-1", "s3");
        s3s_sigv4::calculate_signature_with_key(text, &key)
    }

    #[test]
    fn a_kept_key_counts_for_its_day_and_its_secret_alone() {
        let keys = SigningKeys::new("us-east-1".to_owned());
        let (old, new) = (Secret::new("old".into()), Secret::new("new".into()));
        let days = ["20260101", "20260102"];
        for _ in 0..2 {
            for (secret, text) in [(&old, "old"), (&new, "new")] {
                for day in days {
                    let key: [u8; 8] = day.as_bytes().try_into().unwrap();
                    let verify = |signature: &[u8; 32]| {
                        keys.verify("AKIA", secret, key, &["mess", "age"], signature)
                    };
                    assert!(verify(&signature(text, day, "message")), "{text} {day}");
                    for other in ["old", "new"].iter().filter(|other| **other != text) {
                        assert!(!verify(&signature(other, day, "message")));
                    }
                    for other in days.iter().filter(|other| **other != day) {
                        assert!(!verify(&signature(text, other, "message")));
                    }
                    assert!(!verify(&signature(text, day, "massage")));
                }
            }
        }
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let keys = SigningKeys::new("us-east-1".to_owned());
        let secret = Secret::new("secret".into());
        let good = signature("secret", "20260101", "message");
        for number in 0..SIGNING_KEYS_MAX + 10 {
            let key = format!("AKIA{number}");
            assert!(keys.verify(&key, &secret, *b"20260101", &["mess", "age"], &good));
        }
        let kept = keys.kept.read().unwrap().len();
        assert!((1..=SIGNING_KEYS_MAX).contains(&kept), "{kept}");
    }

    #[test]
    fn whoever_cannot_sign_makes_nothing_be_kept() {
        let keys = SigningKeys::new("us-east-1".to_owned());
        let secret = Secret::new("secret".into());
        assert!(!keys.verify("AKIA", &secret, *b"20260101", &["mess", "age"], &[0; 32]));
        assert!(keys.kept.read().unwrap().is_empty());
    }
}
