use super::*;
use crate::rng::Rng;

#[test]
fn what_followed_before_is_found() {
    let context = [1, 2, 3, 4, 5, 9, 9, 2, 3];
    assert_eq!(PromptLookup::new(2, 8).find(&context)[..3], [4, 5, 9]);
    assert_eq!(Suffixes::new(2).find(&context)[..3], [4, 5, 9]);
    assert_eq!(PromptLookup::new(3, 8).find(&context), []);
    assert_eq!(Suffixes::new(3).find(&context), []);
    assert_eq!(PromptLookup::new(1, 8).find(&[7]), []);
    assert_eq!(Suffixes::new(1).find(&[7]), []);
    // An ending that overlaps its own repetition.
    assert_eq!(Suffixes::new(2).find(&[4, 4, 4]), [4]);
}

/// The automaton finds the longest ending that stands earlier, as a search by hand does, for texts that grow and are cut.
#[test]
fn suffixes_are_the_longest() {
    let mut rng = Rng::of(3, "suffixes");
    let mut drafter = Suffixes::new(1);
    let mut text: Vec<u32> = Vec::new();
    for round in 0..600 {
        text.push(rng.below(3) as u32);
        if round % 97 == 96 {
            text.truncate(text.len() / 2);
        }
        let longest = (1..text.len()).rev().find_map(|len| {
            let (ending, before) = (&text[text.len() - len..], &text[..text.len() - 1]);
            before
                .windows(len)
                .position(|w| w == ending)
                .map(|at| at + len)
        });
        let expect = longest.map_or(&[][..], |at| &text[at..]);
        assert_eq!(drafter.find(&text), expect, "{text:?}");
    }
}
