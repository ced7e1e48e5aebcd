//! Numbers of CPUs and memory nodes, as people and the kernel write them: `0-3,7` (cpuset(7), "List format").

#![forbid(unsafe_code)]

/// A bit for each number, 64 to a word, the lowest first; or what is wrong. All are below `most`; spaces are passed over.
pub fn parse(list: &str, most: u32) -> Result<Vec<u64>, String> {
    let mut bits = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u32>().ok().filter(|number| *number < most),
            false => None,
        };
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (Some(from), Some(to)) = (number(from), number(to)) else {
            return Err(format!("{part:?}: expected numbers below {most} as in \"0-3,7\""));
        };
        if from > to {
            return Err(format!("{part:?} begins after its end"));
        }
        for number in from..=to {
            let word = usize::try_from(number / 64).unwrap_or_default();
            bits.resize(bits.len().max(word + 1), 0);
            bits[word] |= 1 << (number % 64);
        }
    }
    match list.is_empty() || !bits.is_empty() {
        true => Ok(bits),
        false => Err(format!("{list:?} holds no number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ranges_are_bits() {
        assert_eq!(parse("0-2, 5", 64), Ok(vec![0b10_0111]));
        assert_eq!(parse("64,127", 128), Ok(vec![0, 1 | 1 << 63]));
        assert_eq!(parse("", 8), Ok(vec![]));
        for bad in ["8", "x", "1-", "-1", "3-2", "0-8", ",", " ", "1.5", "+1"] {
            assert!(parse(bad, 8).is_err(), "{bad:?}");
        }
    }
}
