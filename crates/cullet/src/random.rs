//! Randomness from the system, for keys and ids.

use anyhow::Context as _;

/// Characters of generated keys and secrets: no two look alike, none needs escaping.
const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// Fills all of `bytes`.
pub(crate) fn fill(bytes: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)
            .context("the system gives no random numbers")?;
    }
    Ok(())
}

/// Text of so many characters, five bits in each.
pub(crate) fn text(chars: usize) -> anyhow::Result<String> {
    let mut bytes = vec![0; chars];
    fill(&mut bytes)?;
    let char_of = |byte: &u8| char::from(ALPHABET[usize::from(byte % 32)]);
    Ok(bytes.iter().map(char_of).collect())
}

/// An access key id of 20 characters, as long as Amazon's.
pub(crate) fn access_key_id() -> anyhow::Result<String> {
    Ok(format!("CULLET{}", text(14)?))
}

/// A secret of 40 characters, as long as Amazon's; 200 bits.
pub(crate) fn secret() -> anyhow::Result<String> {
    text(40)
}

/// A number below `end`, which is not 0 and far below 2^64.
pub(crate) fn below(end: u64) -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes) % end)
}
