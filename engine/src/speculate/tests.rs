use super::*;
use crate::rng::Rng;

fn found(context: &[u32], drafter: &mut dyn Drafter, max: usize) -> Vec<u32> {
    let mut draft = Draft::default();
    drafter.propose(context, max, &mut draft).unwrap();
    draft.tokens().to_vec()
}

#[test]
fn what_followed_before_is_found() {
    let context = [1, 2, 3, 4, 5, 9, 9, 2, 3];
    assert_eq!(found(&context, &mut PromptLookup::new(2, 8), 3), [4, 5, 9]);
    assert_eq!(found(&context, &mut Suffixes::new(2), 3), [4, 5, 9]);
    assert_eq!(found(&context, &mut PromptLookup::new(3, 8), 3), []);
    assert_eq!(found(&context, &mut Suffixes::new(3), 3), []);
    assert_eq!(found(&[7], &mut PromptLookup::new(1, 8), 3), []);
    assert_eq!(found(&[7], &mut Suffixes::new(1), 3), []);
    // An ending that overlaps its own repetition.
    assert_eq!(found(&[4, 4, 4], &mut Suffixes::new(2), 2), [4]);
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
        let expect = longest.map_or(&[][..], |at| &text[at..text.len().min(at + 4)]);
        assert_eq!(found(&text, &mut drafter, 4), expect, "{text:?}");
    }
}
