//! Who owns buckets and objects.

use std::fmt;
use std::str::FromStr;

/// A 12-digit account number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(u64);

/// Account ids are smaller than this: they have twelve decimal digits.
const ACCOUNT_ID_END: u64 = 1_000_000_000_000;

/// The text is not twelve decimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an account id is twelve digits")]
pub struct BadAccountId;

impl AccountId {
    /// The account that exists from the first start: `000000000000`.
    pub const ROOT: AccountId = AccountId(0);

    /// The number behind the digits; always below 10^12.
    pub fn number(self) -> u64 {
        self.0
    }

    /// `None` for a number with more than twelve digits.
    pub fn from_number(number: u64) -> Option<AccountId> {
        (number < ACCOUNT_ID_END).then_some(AccountId(number))
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012}", self.0)
    }
}

impl FromStr for AccountId {
    type Err = BadAccountId;

    fn from_str(text: &str) -> Result<AccountId, BadAccountId> {
        if text.len() != 12 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BadAccountId);
        }
        text.parse().map(AccountId).map_err(|_| BadAccountId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_digits_and_nothing_else() {
        assert_eq!("000000000000".parse(), Ok(AccountId::ROOT));
        assert_eq!(
            "123456789012".parse::<AccountId>().unwrap().to_string(),
            "123456789012"
        );
        for bad in [
            "",
            "1",
            "12345678901",
            "1234567890123",
            "12345678901a",
            "+12345678901",
        ] {
            assert_eq!(bad.parse::<AccountId>(), Err(BadAccountId), "{bad}");
        }
        assert_eq!(AccountId::from_number(ACCOUNT_ID_END), None);
    }
}
