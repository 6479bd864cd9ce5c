//! The text, and what it means to recite it.

/// The text the model recites: words joined by single spaces, no word twice.
pub const TEXT: &str = "\
Once, long before the first train crossed our valley, an old queen woke beneath a lime tree and counted her hives. \
One had lost its roof to winter; another hummed too loudly; number three stood quite empty, smelling of cold wax. \
She neither sighed nor scolded. Instead, every dawn, scouts rose with simple orders: find warm hollows, measure each doorway, \
come home when you know more than I do. Some flew north over barley, others followed streams into blue hills where nobody sings. \
Evening brought them back, dusty but proud, dancing their maps on golden combs: left for clover, right at heather, straight ahead \
toward orchards bright as snow. Then workers carried out what was needed, grain by grain, drop after drop, \
never asking who might taste that sweetness first. If rain delayed any messenger, sisters waited; if wind took two, \
four went searching. Nothing spilled, nothing doubled, not even half told tales. By midsummer all seven homes were singing \
one quiet chord; travellers resting under those branches swore they could hear honey thinking. So she slept, content, \
until somebody small whispered: tell it again?";

/// The words of [`TEXT`], punctuation included, in order.
pub fn words() -> impl Iterator<Item = &'static str> + Clone {
    TEXT.split(' ')
}

/// What greedy decoding writes after `prompt`, token by token and without end: each item is one token, a space and a
/// word.
///
/// It goes on after the prompt's last word if that is a word of the text, and begins at the first word otherwise: an
/// engine's tokeniser finds a word only where it stands between a space (or the start) and the end of the prompt.
pub fn recital_from(prompt: &str) -> impl Iterator<Item = String> + use<> {
    let last = prompt.rsplit(' ').next().unwrap_or_default();
    let start = words().position(|word| word == last).map_or(0, |position| position + 1);
    words().cycle().skip(start).map(|word| format!(" {word}"))
}

/// How an answer left the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slip {
    /// Words are missing: what was found comes this many words later.
    Lost {
        /// How many words are missing.
        words: usize,
    },
    /// The word before occurs again.
    Doubled,
    /// What was found is not a word of the text, or one from another place.
    Foreign,
}

/// Where an answer left the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("word {index} should be {expected:?} and is {found:?} ({slip:?})")]
pub struct Mismatch {
    /// The number of the word in the answer, from zero.
    pub index: usize,
    /// What should stand there, with its space.
    pub expected: String,
    /// What stands there: the rest of the answer up to the next space, with its own space if it has one.
    pub found: String,
    /// What kind of fault that is.
    pub slip: Slip,
}

/// Checks that `output` is what greedy decoding writes after `prompt`, byte for byte. It may end anywhere, also within a
/// word. Answers from several workers are checked by putting them together.
///
/// # Errors
/// [`Mismatch`] names the first word that is wrong.
pub fn check_continuation(prompt: &str, output: &str) -> Result<(), Mismatch> {
    /// A word found this near ahead means that the ones between were lost; farther away it could be anything.
    const NEAR: usize = 64;
    let mut rest = output;
    let mut before = None;
    let mut expected_words = recital_from(prompt);
    for (index, expected) in expected_words.by_ref().enumerate() {
        if let Some(after) = rest.strip_prefix(expected.as_str()) {
            rest = after;
            before = Some(expected);
            continue;
        }
        if expected.starts_with(rest) {
            return Ok(());
        }
        let found = first_token(rest).to_owned();
        let slip = if before.as_deref() == Some(found.as_str()) {
            Slip::Doubled
        } else {
            // `position` counts from the word after the expected one, so that is one word lost at position zero.
            let ahead = expected_words.take(NEAR).position(|word| word == found);
            ahead.map_or(Slip::Foreign, |position| Slip::Lost { words: position + 1 })
        };
        return Err(Mismatch { index, expected, found, slip });
    }
    Ok(())
}

/// The first piece of `text` that could be a token: up to, not including, its second space.
fn first_token(text: &str) -> &str {
    let end = text.char_indices().skip(1).find(|&(_, c)| c == ' ').map_or(text.len(), |(at, _)| at);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn recited(prompt: &str, tokens: usize) -> String {
        recital_from(prompt).take(tokens).collect()
    }

    #[test]
    fn no_word_of_the_text_occurs_twice() {
        let mut seen = HashSet::new();
        let again: Vec<_> = words().filter(|word| !seen.insert(*word)).collect();
        assert!(again.is_empty(), "{again:?}");
        assert!((150..=250).contains(&seen.len()), "{}", seen.len());
        assert!(words().all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic())));
    }

    #[test]
    fn a_recital_goes_on_where_the_prompt_leaves_off_and_begins_again_at_the_end() {
        assert_eq!(recited("", 3), " Once, long before");
        assert_eq!(recited("Tell me of bees.", 2), " Once, long");
        assert_eq!(recited("Tell me of bees. Once, long", 2), " before the");
        assert_eq!(recited("Once, long befo", 1), " Once,");
        assert_eq!(recited("Once, long\n", 1), " Once,");
        assert_eq!(recited("again?", 1), " Once,");
        assert_eq!(recited("tell it", 3), " again? Once, long");
    }

    #[test]
    fn every_slip_is_named_by_its_first_word() {
        let slip = |output: &str| check_continuation("hello", output).map_err(|m| (m.index, m.slip));
        assert_eq!(slip(" Once, long before"), Ok(()));
        assert_eq!(slip(" Once, long bef"), Ok(()));
        assert_eq!(slip(""), Ok(()));
        assert_eq!(slip(" Once, before the"), Err((1, Slip::Lost { words: 1 })));
        assert_eq!(slip(" Once, long train"), Err((2, Slip::Lost { words: 3 })));
        assert_eq!(slip(" Once, long long before"), Err((2, Slip::Doubled)));
        assert_eq!(slip(" Once, long ago"), Err((2, Slip::Foreign)));
        assert_eq!(slip("Once, long"), Err((0, Slip::Foreign)));
        assert_eq!(slip(" Once,long"), Err((1, Slip::Foreign)));
        assert_eq!(slip(" Once,  long"), Err((1, Slip::Foreign)));
        let mismatch = check_continuation("", " Once, ago").unwrap_err();
        assert_eq!(mismatch.to_string(), "word 1 should be \" long\" and is \" ago\" (Foreign)");
    }

    proptest! {
        #[test]
        fn a_recital_cut_and_taken_up_again_anywhere_is_whole(start in 0_usize..400, cut in 0_usize..400, more in 1_usize..400) {
            let prompt = format!("A prompt.{}", recited("", start));
            let first = recited(&prompt, cut);
            let second = recited(&format!("{prompt}{first}"), more);
            prop_assert_eq!(check_continuation(&prompt, &format!("{first}{second}")), Ok(()));
        }

        #[test]
        fn a_lost_or_doubled_word_never_passes(start in 0_usize..200, at in 0_usize..50, doubled in any::<bool>()) {
            let prompt = recited("", start);
            let mut tokens: Vec<_> = recital_from(&prompt).take(60).collect();
            if doubled {
                tokens.insert(at, tokens[at].clone());
            } else {
                tokens.remove(at);
            }
            let mismatch = check_continuation(&prompt, &tokens.concat()).unwrap_err();
            prop_assert_eq!(mismatch.index, if doubled { at + 1 } else { at });
            prop_assert_eq!(mismatch.slip, if doubled { Slip::Doubled } else { Slip::Lost { words: 1 } });
        }
    }
}
