//! Erasure coding: any k of a stripe's k+m shards give the others back.
//!
//! A Reed–Solomon code over GF(2^8), with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11D) and
//! the generator 2, in the systematic form of RAID 6 carried on to four parities (H. P. Anvin,
//! *The mathematics of RAID-6*, 2004):
//!
//! ```text
//! parity r of data 0..k  =  sum over i of 2^(r * i) * data[i]        r = 0, 1, 2, 3
//! ```
//!
//! The first parity is the exclusive or of the data; the others are sums by Horner's rule with
//! one, two or three doublings for each byte, which compilers turn into vector instructions.
//! No table, no `unsafe`. With one data shard every parity is a copy of it.
//!
//! What must always hold: for every scheme that a set can have, each choice of k shards can be
//! solved. With four parities that is not so for any number of data shards; a test tries all.

use crate::Scheme;

/// Most parity shards of a stripe.
pub const PARITY_MAX: usize = 4;

/// Computes parity from data, and whatever is missing from the rest. All shards of a call have
/// the same length.
pub(crate) trait Codec: Send + Sync {
    /// Fills one parity shard, of number k + `row`.
    fn parity(&self, data: &[&[u8]], row: usize, parity: &mut Vec<u8>);

    /// Fills each parity shard; `parity[r]` is the scheme's shard number k + r.
    fn encode(&self, data: &[&[u8]], parity: &mut [Vec<u8>]) {
        for (row, parity) in parity.iter_mut().enumerate() {
            self.parity(data, row, parity);
        }
    }

    /// Fills every data shard that is `None`; parity stays as it is. `false`: fewer than k
    /// shards are there.
    fn rebuild(&self, scheme: Scheme, shards: &mut [Option<Vec<u8>>]) -> bool;
}

/// The codec that is used.
pub(crate) struct Doubling;

/// Bytes that are worked on at a time: several vector registers, well within the first cache.
const LANE: usize = 128;

impl Codec for Doubling {
    fn encode(&self, data: &[&[u8]], parity: &mut [Vec<u8>]) {
        let len = data.first().map_or(0, |shard| shard.len());
        for parity in parity.iter_mut() {
            parity.clear();
            parity.resize(len, 0);
        }
        // A block after the other, so that the data is in a near cache for all but the first row.
        for begin in (0..len).step_by(BLOCK) {
            let block = begin..(begin + BLOCK).min(len);
            let data: Vec<&[u8]> = data.iter().map(|shard| &shard[block.clone()]).collect();
            for (row, parity) in parity.iter_mut().enumerate() {
                sum_up(&data, row, &mut parity[block.clone()]);
            }
        }
    }

    fn parity(&self, data: &[&[u8]], row: usize, parity: &mut Vec<u8>) {
        let len = data.first().map_or(0, |shard| shard.len());
        parity.clear();
        parity.resize(len, 0);
        sum_up(data, row, parity);
    }

    fn rebuild(&self, scheme: Scheme, shards: &mut [Option<Vec<u8>>]) -> bool {
        let (k, m) = (usize::from(scheme.k), usize::from(scheme.m));
        let is_missing = |shard: &usize| shards.get(*shard).is_none_or(Option::is_none);
        let missing: Vec<usize> = (0..k).filter(is_missing).collect();
        if missing.is_empty() {
            return true;
        }
        let rows: Vec<usize> = (0..m)
            .filter(|row| !is_missing(&(k + row)))
            .take(missing.len())
            .collect();
        if rows.len() < missing.len() || shards.len() < k + m {
            return false;
        }
        // What each parity would be if the missing shards were zero; the difference is theirs.
        let Some(len) = shards.iter().flatten().map(Vec::len).next() else {
            return false;
        };
        let zeros = vec![0; len];
        let (data, parity) = shards.split_at(k);
        let known: Vec<&[u8]> = data
            .iter()
            .map(|shard| shard.as_deref().unwrap_or(&zeros))
            .collect();
        let mut sums = vec![Vec::new(); rows.last().map_or(0, |row| row + 1)];
        self.encode(&known, &mut sums);
        for row in &rows {
            if let Some(there) = &parity[*row] {
                add_product(&mut sums[*row], there, 1);
            }
        }
        let Some(inverse) = inverse_of(&rows, &missing) else {
            return false;
        };
        for (shard, factors) in missing.iter().zip(&inverse) {
            let mut rebuilt = vec![0; len];
            for (row, &factor) in rows.iter().zip(factors) {
                add_product(&mut rebuilt, &sums[*row], factor);
            }
            shards[*shard] = Some(rebuilt);
        }
        true
    }
}

/// Bytes of each shard that are worked on for all rows together.
const BLOCK: usize = 4096;

fn sum_up(data: &[&[u8]], row: usize, parity: &mut [u8]) {
    match row {
        0 => horner::<0>(data, parity),
        1 => horner::<1>(data, parity),
        2 => horner::<2>(data, parity),
        _ => horner::<3>(data, parity),
    }
}

/// Twice a byte, in the field.
#[inline(always)]
fn double(byte: u8) -> u8 {
    // The sign bit smeared over the byte: a comparison of vectors.
    let carry = ((byte as i8) >> 7) as u8;
    (byte << 1) ^ (carry & 0x1D)
}

/// `parity` becomes the sum over all `data` of `2^(POWER * i) * data[i]`, by Horner's rule.
fn horner<const POWER: usize>(data: &[&[u8]], parity: &mut [u8]) {
    let mut at = 0;
    let (lanes, rest) = parity.as_chunks_mut::<LANE>();
    for lane in lanes {
        let mut sum = [0_u8; LANE];
        for shard in data.iter().rev() {
            let Some(bytes) = shard.get(at..).and_then(<[u8]>::first_chunk::<LANE>) else {
                continue;
            };
            for _ in 0..POWER {
                sum.iter_mut().for_each(|byte| *byte = double(*byte));
            }
            for (sum, byte) in sum.iter_mut().zip(bytes) {
                *sum ^= byte;
            }
        }
        *lane = sum;
        at += LANE;
    }
    for (offset, sum) in rest.iter_mut().enumerate() {
        let bytes = data.iter().rev().map(|shard| shard[at + offset]);
        *sum = bytes.fold(0, |sum, byte| {
            (0..POWER).fold(sum, |sum, _| double(sum)) ^ byte
        });
    }
}

/// Adds `factor * bytes` to `sum`, bit by bit of the factor.
fn add_product(sum: &mut [u8], bytes: &[u8], factor: u8) {
    if factor == 1 {
        for (sum, byte) in sum.iter_mut().zip(bytes) {
            *sum ^= byte;
        }
        return;
    }
    let (lanes, rest) = sum.as_chunks_mut::<LANE>();
    let (parts, rest_bytes) = bytes.as_chunks::<LANE>();
    for (sum, bytes) in lanes.iter_mut().zip(parts) {
        let mut power = *bytes;
        let mut left = factor;
        while left != 0 {
            if left & 1 != 0 {
                for (sum, power) in sum.iter_mut().zip(&power) {
                    *sum ^= power;
                }
            }
            left >>= 1;
            if left != 0 {
                power.iter_mut().for_each(|byte| *byte = double(*byte));
            }
        }
    }
    for (sum, byte) in rest.iter_mut().zip(rest_bytes) {
        *sum ^= multiply(*byte, factor);
    }
}

fn multiply(a: u8, b: u8) -> u8 {
    let (mut product, mut power, mut left) = (0, a, b);
    while left != 0 {
        product ^= power & (left & 1).wrapping_neg();
        (power, left) = (double(power), left >> 1);
    }
    product
}

/// `2^exponent`.
fn power_of_two(exponent: usize) -> u8 {
    (0..exponent % 255).fold(1, |power, _| double(power))
}

/// `1 / byte`; of 0, 0.
fn invert(byte: u8) -> u8 {
    // byte^254, because byte^255 is 1.
    (0..254).fold(1, |power, _| multiply(power, byte))
}

/// The inverse of the matrix whose element (row, column) is `2^(rows[row] * columns[column])`,
/// by Gauss and Jordan; row `c` of the answer gives `columns[c]` from the sums of `rows`.
/// `None`: it has none.
fn inverse_of(rows: &[usize], columns: &[usize]) -> Option<Vec<Vec<u8>>> {
    let size = rows.len();
    // The matrix with the unit matrix at its right.
    let mut matrix: Vec<Vec<u8>> = rows
        .iter()
        .enumerate()
        .map(|(number, row)| {
            let left = columns.iter().map(|column| power_of_two(row * column));
            let right = (0..size).map(|column| u8::from(column == number));
            left.chain(right).collect()
        })
        .collect();
    for at in 0..size {
        let pivot = (at..size).find(|&row| matrix[row][at] != 0)?;
        matrix.swap(at, pivot);
        let scale = invert(matrix[at][at]);
        for value in &mut matrix[at] {
            *value = multiply(*value, scale);
        }
        let pivot = matrix[at].clone();
        for (number, row) in matrix.iter_mut().enumerate() {
            let factor = row[at];
            if number != at && factor != 0 {
                for (value, pivot) in row.iter_mut().zip(&pivot) {
                    *value ^= multiply(*pivot, factor);
                }
            }
        }
    }
    Some(matrix.into_iter().map(|row| row[size..].to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DISKS_MAX;

    /// The slow oracle: products by long multiplication of polynomials, parity term by term
    /// from the definition, and missing shards by elimination over all k equations.
    struct Slow;

    fn slow_product(a: u8, b: u8) -> u8 {
        let mut product: u16 = 0;
        for bit in 0..8 {
            if b >> bit & 1 == 1 {
                product ^= u16::from(a) << bit;
            }
        }
        for bit in (8..16).rev() {
            if product >> bit & 1 == 1 {
                product ^= 0x11D << (bit - 8);
            }
        }
        product as u8
    }

    fn slow_power(exponent: usize) -> u8 {
        (0..exponent).fold(1, |power, _| slow_product(power, 2))
    }

    /// The equation of a shard: which sum of the data shards it is.
    fn equation(scheme: Scheme, shard: usize) -> Vec<u8> {
        let k = usize::from(scheme.k);
        (0..k)
            .map(|data| match shard.checked_sub(k) {
                None => u8::from(data == shard),
                Some(row) => slow_power(row * data),
            })
            .collect()
    }

    impl Codec for Slow {
        fn parity(&self, data: &[&[u8]], row: usize, parity: &mut Vec<u8>) {
            *parity = (0..data[0].len())
                .map(|at| {
                    let terms = data.iter().enumerate();
                    terms.fold(0, |sum, (i, shard)| {
                        sum ^ slow_product(slow_power(row * i), shard[at])
                    })
                })
                .collect();
        }

        fn rebuild(&self, scheme: Scheme, shards: &mut [Option<Vec<u8>>]) -> bool {
            let k = usize::from(scheme.k);
            let there: Vec<usize> = (0..shards.len()).filter(|&s| shards[s].is_some()).collect();
            if there.len() < k {
                return false;
            }
            let mut rows: Vec<(Vec<u8>, Vec<u8>)> = there[..k]
                .iter()
                .map(|&s| (equation(scheme, s), shards[s].clone().unwrap()))
                .collect();
            for at in 0..k {
                let pivot = (at..k).find(|&row| rows[row].0[at] != 0).unwrap();
                rows.swap(at, pivot);
                let inverse = (1..=255)
                    .find(|&x| slow_product(x, rows[at].0[at]) == 1)
                    .unwrap();
                let scale = |bytes: &mut Vec<u8>, by: u8| {
                    bytes.iter_mut().for_each(|b| *b = slow_product(*b, by));
                };
                scale(&mut rows[at].0, inverse);
                scale(&mut rows[at].1, inverse);
                let pivot = rows[at].clone();
                for (number, row) in rows.iter_mut().enumerate() {
                    let factor = row.0[at];
                    if number != at {
                        let subtract = |bytes: &mut Vec<u8>, from: &[u8]| {
                            for (b, p) in bytes.iter_mut().zip(from) {
                                *b ^= slow_product(*p, factor);
                            }
                        };
                        subtract(&mut row.0, &pivot.0);
                        subtract(&mut row.1, &pivot.1);
                    }
                }
            }
            for (data, (_, bytes)) in rows.into_iter().enumerate() {
                shards[data] = Some(bytes);
            }
            true
        }
    }

    fn schemes() -> impl Iterator<Item = Scheme> {
        (1..=DISKS_MAX as u8).flat_map(|k| {
            let parities = 0..=PARITY_MAX as u8;
            parities.filter_map(move |m| Scheme::new(k, m))
        })
    }

    fn data(scheme: Scheme, len: usize, seed: u64) -> Vec<Vec<u8>> {
        let mut random = simdisk::Rng::new(seed);
        let shard = |_| {
            let mut bytes = vec![0; len];
            random.fill(&mut bytes);
            bytes
        };
        (0..scheme.k).map(shard).collect()
    }

    fn encoded(codec: &dyn Codec, scheme: Scheme, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut parity = vec![Vec::new(); scheme.m.into()];
        codec.encode(&data, &mut parity);
        data.iter()
            .map(|shard| shard.to_vec())
            .chain(parity)
            .collect()
    }

    #[test]
    fn the_field_is_the_definitions() {
        for a in 0..=255 {
            assert_eq!(double(a), slow_product(a, 2));
            for b in 0..=255 {
                let mut product = [0];
                add_product(&mut product, &[a], b);
                assert_eq!(product[0], slow_product(a, b), "{a} * {b}");
                assert_eq!(multiply(a, b), slow_product(a, b), "{a} * {b}");
            }
            assert_eq!(multiply(a, invert(a)), u8::from(a != 0), "1 / {a}");
        }
        for exponent in 0..600 {
            assert_eq!(power_of_two(exponent), slow_power(exponent));
        }
    }

    #[test]
    fn parity_is_what_the_definition_says() {
        for scheme in schemes() {
            for len in [0, 1, LANE - 1, LANE, 3 * LANE + 5] {
                let data = data(scheme, len, len as u64);
                let fast = encoded(&Doubling, scheme, &data);
                assert_eq!(fast, encoded(&Slow, scheme, &data), "{scheme}, {len} bytes");
            }
        }
    }

    /// Whichever data shards are missing, as many parities as that, whichever they are, can be
    /// solved for them: for all schemes at once, because only their numbers count.
    #[test]
    fn every_choice_of_shards_can_be_solved() {
        let numbers = |bits: u32| {
            (0..32)
                .filter(|n| bits >> n & 1 == 1)
                .collect::<Vec<usize>>()
        };
        for missing in (1_u32..1 << (DISKS_MAX - 1)).filter(|bits| bits.count_ones() <= 4) {
            let count = missing.count_ones();
            for rows in (1_u32..1 << PARITY_MAX).filter(|bits| bits.count_ones() == count) {
                let (rows, missing) = (numbers(rows), numbers(missing));
                let is_solved = inverse_of(&rows, &missing).is_some();
                assert!(is_solved, "parity {rows:?} for data {missing:?}");
            }
        }
    }

    /// Every choice of k shards of a scheme gives the data back.
    #[test]
    fn any_k_shards_are_enough() {
        for scheme in schemes().filter(|scheme| scheme.k <= 6) {
            let (k, width) = (usize::from(scheme.k), usize::from(scheme.width()));
            let whole = encoded(&Doubling, scheme, &data(scheme, 3, 7));
            for lost in 0_u32..1 << width {
                if lost.count_ones() > u32::from(scheme.m) {
                    continue;
                }
                let left = |shard: usize| (lost >> shard & 1 == 0).then(|| whole[shard].clone());
                let mut shards: Vec<_> = (0..width).map(left).collect();
                assert!(Doubling.rebuild(scheme, &mut shards), "{scheme} {lost:b}");
                let rebuilt: Vec<_> = shards.into_iter().take(k).flatten().collect();
                assert_eq!(rebuilt, whole[..k], "{scheme} without {lost:b}");
            }
        }
    }

    #[test]
    fn what_is_rebuilt_is_what_the_oracle_rebuilds() {
        for scheme in schemes().filter(|scheme| scheme.m > 0) {
            let (k, width) = (usize::from(scheme.k), usize::from(scheme.width()));
            let whole = encoded(&Slow, scheme, &data(scheme, 2 * LANE + 1, 9));
            let lost = usize::from(scheme.m).min(k);
            let left = |shard: usize| (shard >= lost).then(|| whole[shard].clone());
            let mut fast: Vec<_> = (0..width).map(left).collect();
            let mut slow = fast.clone();
            assert!(Doubling.rebuild(scheme, &mut fast) && Slow.rebuild(scheme, &mut slow));
            assert_eq!(fast[..k], slow[..k], "{scheme}");
        }
    }

    #[test]
    fn fewer_than_k_shards_are_not_enough() {
        let scheme = Scheme { k: 4, m: 2 };
        let whole = encoded(&Doubling, scheme, &data(scheme, 5, 1));
        let mut shards: Vec<_> = whole.into_iter().map(Some).collect();
        for lost in [0, 3, 5] {
            shards[lost] = None;
        }
        let before = shards.clone();
        assert!(!Doubling.rebuild(scheme, &mut shards));
        assert_eq!(shards, before);
    }
}
