//! JUnit XML, as CI systems read it.

use super::report::Outcome;

/// The report as a document.
pub(crate) fn document(outcomes: &[Outcome]) -> String {
    let failures = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    let cases: String = outcomes.iter().map(case).collect();
    let count = outcomes.len();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"test-cluster\" tests=\"{count}\" \
         failures=\"{failures}\">\n{cases}</testsuite>\n"
    )
}

fn case(outcome: &Outcome) -> String {
    let (name, seconds) = (escaped(outcome.name), outcome.took.as_secs_f64());
    if outcome.passed() {
        return format!("  <testcase name=\"{name}\" time=\"{seconds:.3}\"/>\n");
    }
    let first = outcome.failures.first().and_then(|failure| failure.lines().next()).unwrap_or_default();
    let (first, all) = (escaped(first), escaped(&outcome.failures.join("\n")));
    format!(
        "  <testcase name=\"{name}\" time=\"{seconds:.3}\">\n    <failure message=\"{first}\">{all}</failure>\n  \
         </testcase>\n"
    )
}

/// XML 1.0 knows no control characters besides tab and line ends, not even escaped.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_document_keeps_its_shape() {
        let outcome = |name, failures: &[&str]| Outcome {
            figures: Vec::new(),
            name,
            again: String::new(),
            took: Duration::from_millis(1500),
            requests: 3,
            faults: 1,
            failures: failures.iter().map(|f| (*f).to_owned()).collect(),
            folder: "folder".into(),
        };
        let text = document(&[outcome("warm/a", &[]), outcome("cold/b", &["1 < 2 & \"so\"\nmore\u{1b}"])]);
        insta::assert_snapshot!(text, @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuite name="test-cluster" tests="2" failures="1">
          <testcase name="warm/a" time="1.500"/>
          <testcase name="cold/b" time="1.500">
            <failure message="1 &lt; 2 &amp; &quot;so&quot;">1 &lt; 2 &amp; &quot;so&quot;
        more�</failure>
          </testcase>
        </testsuite>
        "#);
    }
}
