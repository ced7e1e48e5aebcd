//! What a pod sends to its name server: it is answered, refused or passed over, and no name becomes a path of its own.

#![forbid(unsafe_code)]

use podrun::names::answer::About;
use podrun::names::answer::Heard;
use podrun::names::answer::Question;
use podrun::names::answer::STREAM;
use podrun::names::answer::Told;
use podrun::names::answer::answers;
use podrun::names::answer::is_evasive;
use podrun::names::answer::read;
use podrun::names::answer::renumber;

pub fn try_it(input: &[u8]) {
    packet(input);
    // The same behind a header that asks one thing.
    packet(&[&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], input].concat());
    let (asked, answer) = input.split_at(input.len() / 2);
    // Whatever comes back is judged without being understood.
    let _ = (answers(asked, answer), is_evasive(answer));
    assert!(!answers(asked, asked) || asked.get(2).is_some_and(|flags| flags & 0x80 != 0));
    let mut again = input.to_vec();
    renumber(&mut again, [1, 2]);
    assert_eq!(again.len(), input.len());
}

fn packet(input: &[u8]) {
    match read(input) {
        Heard::Question(question) => question_is_answered(input, &question),
        Heard::Refused(answer) => is_an_answer(input, &answer),
        Heard::Noise => assert!(input.len() < 12 || input[2] & 0x80 != 0, "a question was passed over"),
    }
}

fn question_is_answered(input: &[u8], question: &Question) {
    if let About::Name(name) = &question.about {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        let labels: Vec<&str> = name.split('.').collect();
        assert!(labels.iter().all(|label| !label.is_empty() && label.bytes().all(plain)), "{name:?}");
        assert!(name.len() <= 255);
    }
    let addresses = (0..200).map(|n| [10, 88, 0, n].into()).chain([[0_u16; 8].into()]).collect();
    for told in [Told::Addresses(addresses), Told::Pointer("web.front".to_owned()), Told::Nobody, Told::Failed] {
        let (datagram, stream) = (question.datagram(&told), question.answer(&told, STREAM));
        assert!(datagram.len() <= 1232, "{} bytes in a datagram", datagram.len());
        is_an_answer(input, &datagram);
        is_an_answer(input, &stream);
    }
}

fn is_an_answer(input: &[u8], answer: &[u8]) {
    assert!(answer.len() >= 12 && answer[2] & 0x80 != 0, "{answer:?}");
    assert_eq!(answer[..2], input[..2], "another number");
}
