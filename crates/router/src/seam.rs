//! Stop texts across the seam between two workers.
//!
//! A worker looks for stop texts in what it generates itself. One that begins in the text of its predecessor and ends in
//! its own is seen by neither, so the beginning of a continued answer is looked at here, for as long as a stop text
//! could still reach back over the seam.

/// Looks at the text behind a seam.
#[derive(Debug)]
pub(crate) struct Seam {
    stops: Vec<String>,
    /// What stands before the seam, as far as a stop text could reach back.
    before: String,
    /// What came behind the seam so far.
    after: String,
    /// How much of that was let through, in bytes.
    through: usize,
    /// Longest stop text, in bytes.
    reach: usize,
}

/// What of a piece may go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// This text, which may be less than came, and more than came last.
    Text(String),
    /// Nothing: a stop text that begins before the seam is complete, and so is the answer.
    Stopped,
}

impl Seam {
    /// A seam behind `given`. None if no stop text can reach over it.
    pub(crate) fn behind(given: &str, stops: &[String]) -> Option<Self> {
        let reach = stops.iter().map(String::len).max().unwrap_or(0);
        if reach < 2 {
            return None;
        }
        let mut start = given.len().saturating_sub(reach - 1);
        while !given.is_char_boundary(start) {
            start += 1;
        }
        let before = given[start..].to_owned();
        Some(Self { stops: stops.to_vec(), before, after: String::new(), through: 0, reach })
    }

    /// Takes the next piece behind the seam.
    pub(crate) fn take(&mut self, piece: &str) -> Passed {
        self.after.push_str(piece);
        let whole = format!("{}{}", self.before, self.after);
        let seam = self.before.len();
        let found = self.stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| {
            let at = whole.find(stop.as_str())?;
            (at < seam && at + stop.len() > seam).then_some(at)
        });
        if found.min().is_some() {
            return Passed::Stopped;
        }
        let held = (0..seam).filter(|at| whole.is_char_boundary(*at)).any(|at| {
            let rest = &whole[at..];
            self.stops.iter().any(|stop| stop.len() > rest.len() && stop.starts_with(rest))
        });
        if held {
            return Passed::Text(String::new());
        }
        let text = self.after[self.through..].to_owned();
        self.through = self.after.len();
        Passed::Text(text)
    }

    /// Whether no stop text can reach over the seam any more, and nothing is held back.
    pub(crate) fn is_passed(&self) -> bool {
        self.through == self.after.len() && self.after.len() >= self.reach
    }

    /// What is held back when the answer ends.
    pub(crate) fn rest(self) -> String {
        self.after[self.through..].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(given: &str, stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let Some(mut seam) = Seam::behind(given, &stops) else { return (pieces.concat(), false) };
        let mut text = String::new();
        for piece in pieces {
            match seam.take(piece) {
                Passed::Text(more) => text.push_str(&more),
                Passed::Stopped => return (text, true),
            }
        }
        (text + &seam.rest(), false)
    }

    #[test]
    fn a_stop_text_over_the_seam_ends_the_answer() {
        assert_eq!(read("one EN", &["END"], &["D two"]), (String::new(), true));
        assert_eq!(read("one E", &["END"], &["N", "D"]), (String::new(), true));
        assert_eq!(read("one E", &["END"], &["N", "E"]), ("NE".to_owned(), false));
        assert_eq!(read("one", &["END"], &[" two"]), (" two".to_owned(), false));
        assert_eq!(read("ä", &["ä€"], &["€"]), (String::new(), true));
    }

    #[test]
    fn one_letter_cannot_reach_over_a_seam() {
        assert!(Seam::behind("text", &["\n".to_owned()]).is_none());
        assert!(Seam::behind("text", &[]).is_none());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_doubled_and_only_a_crossing_stop_ends(
            given in "[ab]{0,6}", stop in "[ab]{1,4}", pieces in prop::collection::vec("[ab]{0,3}", 0..6),
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (text, stopped) = read(&given, &[&stop], &pieces);
            let after = pieces.concat();
            let crossing = (0..given.len()).any(|at| {
                let whole = format!("{given}{after}");
                at + stop.len() > given.len() && whole[at..].starts_with(&stop)
            });
            // Text of the predecessor that holds the whole stop text would have ended the answer there.
            prop_assume!(!given.contains(&stop));
            prop_assert_eq!(stopped, crossing);
            if stopped { prop_assert!(text.is_empty() || after.starts_with(&text)) } else { prop_assert_eq!(text, after) }
        }
    }
}
