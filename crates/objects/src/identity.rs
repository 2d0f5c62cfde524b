//! The values behind the keys of accounts and access keys.
//!
//! Account (all integers little-endian):
//!
//! ```text
//!  0  u8   version = 1
//!  1  u8   flags: 1 = disabled
//!  2  u64  account
//! 10  u64  created, milliseconds since the Unix epoch
//!     fields (see `codec`): 1 name
//! ```
//!
//! Access key:
//!
//! ```text
//!  0  u8   version = 1
//!  1  u8   flags: 1 = disabled
//!  2  u64  account
//! 10  u64  created, milliseconds since the Unix epoch
//! 18  u64  when its secret was made, likewise
//!     fields: 1 description, 128 sealed secret
//! ```
//! What seals a secret is not known here, and no secret is ever in a record in the clear.
//! Policies will be fields. One that restricts must be critical (see `codec`): a release that
//! does not know it then refuses the key, instead of letting it do more than it may.

use crate::codec::{
    CRITICAL, Take, UnknownFields, corrupt, put_field, put_unknown, take_fields, text,
};
use crate::record::take_version;
use crate::{AccountId, Result, Timestamp};

const VERSION: u8 = 1;
const DISABLED: u8 = 1;

const FIELD_NAME: u8 = 1;
const FIELD_DESCRIPTION: u8 = 1;
const FIELD_SEALED: u8 = CRITICAL;

const ACCOUNT: &str = "an account's record";
const KEY: &str = "an access key's record";

/// What is kept about an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccountRecord {
    /// Yes-or-no facts; bits that this release does not know are kept.
    pub(crate) flags: u8,
    pub(crate) account: AccountId,
    pub(crate) created: Timestamp,
    pub(crate) name: String,
    /// Kept for the release that knows them.
    pub(crate) unknown: UnknownFields,
}

/// What is kept about an access key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRecord {
    /// Yes-or-no facts; bits that this release does not know are kept.
    pub(crate) flags: u8,
    pub(crate) account: AccountId,
    pub(crate) created: Timestamp,
    /// When the secret was made.
    pub(crate) rotated: Timestamp,
    pub(crate) description: String,
    pub(crate) sealed: Vec<u8>,
    /// Kept for the release that knows them.
    pub(crate) unknown: UnknownFields,
}

/// The flags with one bit set or not.
fn with_bit(flags: u8, bit: u8, set: bool) -> u8 {
    if set { flags | bit } else { flags & !bit }
}

impl AccountRecord {
    pub(crate) fn is_enabled(&self) -> bool {
        self.flags & DISABLED == 0
    }

    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.flags = with_bit(self.flags, DISABLED, !enabled);
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut out = vec![VERSION, self.flags];
        out.extend_from_slice(&self.account.number().to_le_bytes());
        out.extend_from_slice(&self.created.as_millis().to_le_bytes());
        put_field(&mut out, FIELD_NAME, self.name.as_bytes())?;
        put_unknown(&mut out, &self.unknown)?;
        Ok(out)
    }

    /// Any bytes become a record or [`Error::Corrupt`](crate::Error::Corrupt).
    pub(crate) fn decode(value: &[u8]) -> Result<AccountRecord> {
        let mut take = Take(value);
        take_version(&mut take, ACCOUNT)?;
        let head = AccountRecord::take_head(&mut take);
        let mut record = head.ok_or_else(|| corrupt(ACCOUNT, "its head is cut short"))?;
        let name = &mut record.name;
        record.unknown = take_fields(ACCOUNT, take, |tag, bytes| {
            if tag == FIELD_NAME {
                *name = text(ACCOUNT, bytes)?;
            }
            Ok(tag == FIELD_NAME)
        })?;
        Ok(record)
    }

    fn take_head(take: &mut Take<'_>) -> Option<AccountRecord> {
        Some(AccountRecord {
            flags: take.u8()?,
            account: AccountId::from_number(take.u64()?)?,
            created: Timestamp::from_millis(take.u64()?),
            name: String::new(),
            unknown: UnknownFields::new(),
        })
    }
}

impl KeyRecord {
    pub(crate) fn is_enabled(&self) -> bool {
        self.flags & DISABLED == 0
    }

    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.flags = with_bit(self.flags, DISABLED, !enabled);
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut out = vec![VERSION, self.flags];
        out.extend_from_slice(&self.account.number().to_le_bytes());
        out.extend_from_slice(&self.created.as_millis().to_le_bytes());
        out.extend_from_slice(&self.rotated.as_millis().to_le_bytes());
        put_field(&mut out, FIELD_DESCRIPTION, self.description.as_bytes())?;
        put_field(&mut out, FIELD_SEALED, &self.sealed)?;
        put_unknown(&mut out, &self.unknown)?;
        Ok(out)
    }

    /// Any bytes become a record or [`Error::Corrupt`](crate::Error::Corrupt).
    pub(crate) fn decode(value: &[u8]) -> Result<KeyRecord> {
        let mut take = Take(value);
        take_version(&mut take, KEY)?;
        let head = KeyRecord::take_head(&mut take);
        let mut record = head.ok_or_else(|| corrupt(KEY, "its head is cut short"))?;
        let (description, sealed) = (&mut record.description, &mut record.sealed);
        record.unknown = take_fields(KEY, take, |tag, bytes| {
            match tag {
                FIELD_DESCRIPTION => *description = text(KEY, bytes)?,
                FIELD_SEALED => *sealed = bytes.to_vec(),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(record)
    }

    fn take_head(take: &mut Take<'_>) -> Option<KeyRecord> {
        Some(KeyRecord {
            flags: take.u8()?,
            account: AccountId::from_number(take.u64()?)?,
            created: Timestamp::from_millis(take.u64()?),
            rotated: Timestamp::from_millis(take.u64()?),
            description: String::new(),
            sealed: Vec::new(),
            unknown: UnknownFields::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::random::Random;

    fn account() -> AccountRecord {
        AccountRecord {
            flags: 0x82,
            account: AccountId::from_number(123_456_789_012).unwrap(),
            created: Timestamp::from_millis(1_700_000_000_123),
            name: "analytics".to_owned(),
            unknown: vec![(9, b"a policy of later".to_vec())],
        }
    }

    fn key() -> KeyRecord {
        KeyRecord {
            flags: 0x82,
            account: AccountId::from_number(123_456_789_012).unwrap(),
            created: Timestamp::from_millis(1_700_000_000_123),
            rotated: Timestamp::from_millis(1_800_000_000_123),
            description: "the nightly job".to_owned(),
            sealed: vec![0xab; 69],
            unknown: vec![(9, b"a policy of later".to_vec())],
        }
    }

    #[test]
    fn records_survive_their_codecs_with_what_is_not_known() {
        let record = account();
        let decoded = AccountRecord::decode(&record.encode().unwrap()).unwrap();
        assert_eq!(decoded, record);
        let record = key();
        assert_eq!(
            KeyRecord::decode(&record.encode().unwrap()).unwrap(),
            record
        );
    }

    #[test]
    fn disabling_touches_one_bit() {
        let (mut account, mut key) = (account(), key());
        assert!(account.is_enabled() && key.is_enabled());
        account.set_enabled(false);
        key.set_enabled(false);
        assert_eq!((account.flags, key.flags), (0x83, 0x83));
        assert!(!account.is_enabled() && !key.is_enabled());
        account.set_enabled(true);
        key.set_enabled(true);
        assert_eq!((account.flags, key.flags), (0x82, 0x82));
    }

    /// A policy that this release cannot read must not turn into none.
    #[test]
    fn critical_fields_of_later_refuse_the_record() {
        for tag in [CRITICAL | 1, 0xff] {
            let mut record = key();
            record.unknown = vec![(tag, Vec::new())];
            let decoded = KeyRecord::decode(&record.encode().unwrap());
            assert!(decoded.unwrap_err().to_string().contains("newer cullet"));
            let mut record = account();
            record.unknown = vec![(tag, Vec::new())];
            let decoded = AccountRecord::decode(&record.encode().unwrap());
            assert!(decoded.unwrap_err().to_string().contains("newer cullet"));
        }
    }

    #[test]
    fn no_bytes_make_the_decoders_panic() {
        let mut random = Random::new(7);
        let whole = [account().encode().unwrap(), key().encode().unwrap()];
        for round in 0..50_000 {
            let mut bytes = match round % 3 {
                0 => random.bytes(200),
                _ => whole[round % 2].clone(),
            };
            for _ in 0..random.below(4) {
                if !bytes.is_empty() {
                    let at = random.below(bytes.len());
                    bytes[at] = random.next() as u8;
                }
            }
            bytes.truncate(random.below(bytes.len() + 1));
            for error in [
                AccountRecord::decode(&bytes).err(),
                KeyRecord::decode(&bytes).err(),
            ] {
                assert!(matches!(error, None | Some(Error::Corrupt { .. })));
            }
        }
    }
}
