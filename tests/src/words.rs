//! One line of a shell's words, so that a test reads as what a person types. Quotes hold spaces; nothing else is special.

/// Splits at spaces; `'…'` and `"…"` keep theirs.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(letter),
        }
    }
    assert!(quote.is_none(), "an open quote in {line}");
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn quotes_hold_spaces() {
        assert_eq!(
            words("run  a/b -- sh -c 'echo \"x y\"' \"\" e='1 2'"),
            ["run", "a/b", "--", "sh", "-c", "echo \"x y\"", "", "e=1 2"]
        );
    }
}
