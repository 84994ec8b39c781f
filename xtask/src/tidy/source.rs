//! Reads Rust text as far as the rules need it: which characters are code (not comment, not string),
//! and which lines are test code. A lexer, not a parser.

/// One file, seen line by line.
pub struct Source<'a> {
    /// Path from the workspace root, with `/`.
    pub path: &'a str,
    /// The lines as written.
    pub raw: Vec<&'a str>,
    /// The same lines with comments and the insides of literals blanked out.
    pub code: Vec<String>,
    /// Whether a line belongs to test code.
    pub test: Vec<bool>,
}

impl<'a> Source<'a> {
    /// Reads a file. `all_test`: the whole file is test code (see [`test_modules`]).
    pub fn read(path: &'a str, text: &'a str, all_test: bool) -> Self {
        let blank = blank(text);
        let code: Vec<String> = blank.lines().map(str::to_owned).collect();
        let test = if all_test || is_test_path(path) { vec![true; code.len()] } else { test_lines(&blank) };
        Self { path, raw: text.lines().collect(), code, test }
    }

    /// Line numbers (from 1) and text of code lines outside tests.
    pub fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines_where(false)
    }

    /// Line numbers (from 1) and text of code lines inside tests.
    pub fn test_code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines_where(true)
    }

    fn lines_where(&self, test: bool) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .iter()
            .zip(&self.test)
            .enumerate()
            .filter(move |(_, (_, t))| **t == test)
            .map(|(n, (line, _))| (n + 1, line.as_str()))
    }

    /// Whether a comment on the line or the one above says `tidy: <rule>: <reason>`.
    pub fn is_waived(&self, line: usize, rule: &str) -> bool {
        let mark = format!("tidy: {rule}: ");
        let says = |n: usize| {
            let text = self.raw.get(n).copied().unwrap_or("");
            text.split_once("//")
                .and_then(|(_, comment)| comment.split_once(&mark))
                .is_some_and(|(_, reason)| reason.trim().len() >= 8)
        };
        says(line - 1) || (line >= 2 && says(line - 2))
    }
}

/// Whether cargo builds the file only for tests, benchmarks or examples.
pub fn is_test_path(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "benches" | "examples"))
        || path.ends_with("/tests.rs")
}

/// The files that `#[cfg(test)] mod name;` in this file pulls in.
pub fn test_modules(path: &str, text: &str) -> Vec<String> {
    let blank = blank(text);
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let home = match file {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
        _ => format!("{folder}/{}", file.trim_end_matches(".rs")),
    };
    let names = test_items(&blank).into_iter().filter_map(|(start, end)| {
        let item = blank[start..end].trim_end().strip_suffix(';')?;
        item.rsplit_once("mod ").map(|(_, name)| name.trim().to_owned())
    });
    names.flat_map(|name| [format!("{home}/{name}.rs"), format!("{home}/{name}/mod.rs")]).collect()
}

fn test_lines(blank: &str) -> Vec<bool> {
    let mut marks = vec![false; blank.lines().count()];
    for (start, end) in test_items(blank) {
        let first = blank[..start].matches('\n').count();
        let last = blank[..end].matches('\n').count();
        marks.iter_mut().take(last + 1).skip(first).for_each(|mark| *mark = true);
    }
    marks
}

/// Byte ranges of the items under `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn test_items(blank: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for mark in ["#[cfg(test)]", "#[cfg(all(test,"] {
        let starts = blank.match_indices(mark).map(|(at, _)| at);
        found.extend(starts.map(|start| (start, item_end(blank, start))));
    }
    found
}

/// Where the item whose attributes begin at `start` ends: at its `;` or its closing brace.
fn item_end(blank: &str, start: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, c) in blank[start..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && c == '}' {
                    return start + offset + 1;
                }
            }
            ';' if depth == 0 => return start + offset + 1,
            _ => {}
        }
    }
    blank.len()
}

/// Replaces comments and the insides of string and character literals by spaces; newlines stay.
pub fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_or_comment(&chars, at);
        if end > at {
            out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn literal_or_comment(chars: &[char], at: usize) -> usize {
    let peek = |n: usize| chars.get(at + n).copied().unwrap_or('\0');
    let after_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match peek(0) {
        '/' if peek(1) == '/' => find(chars, at, |rest| rest[0] == '\n').unwrap_or(chars.len()),
        '/' if peek(1) == '*' => block_comment_end(chars, at),
        '"' => string_end(chars, at + 1),
        'b' | 'c' if peek(1) == '"' && !after_word => string_end(chars, at + 2),
        'r' if !after_word => raw_string_end(chars, at, at + 1),
        'b' | 'c' if peek(1) == 'r' && !after_word => raw_string_end(chars, at, at + 2),
        '\'' => char_end(chars, at),
        _ => at,
    }
}

fn find(chars: &[char], from: usize, matches: impl Fn(&[char]) -> bool) -> Option<usize> {
    (from..chars.len()).find(|&n| matches(&chars[n..]))
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut n, mut depth) = (at, 0);
    while n < chars.len() {
        match (chars[n], chars.get(n + 1)) {
            ('/', Some('*')) => (n, depth) = (n + 2, depth + 1),
            ('*', Some('/')) => (n, depth) = (n + 2, depth - 1),
            _ => n += 1,
        }
        if depth == 0 {
            break;
        }
    }
    n.min(chars.len())
}

/// The end of a string whose inside starts at `n`.
fn string_end(chars: &[char], mut n: usize) -> usize {
    while n < chars.len() {
        match chars[n] {
            '\\' => n += 2,
            '"' => return n + 1,
            _ => n += 1,
        }
    }
    chars.len()
}

/// `at` is the literal's start, `n` the place after its `r`.
fn raw_string_end(chars: &[char], at: usize, n: usize) -> usize {
    let hashes = chars[n..].iter().take_while(|&&c| c == '#').count();
    if chars.get(n + hashes) != Some(&'"') {
        return at;
    }
    let closes =
        |rest: &[char]| rest[0] == '"' && rest.len() > hashes && rest[1..=hashes].iter().all(|&c| c == '#');
    find(chars, n + hashes + 1, closes).map_or(chars.len(), |end| end + 1 + hashes)
}

/// A character literal, or nothing if the quote starts a lifetime.
fn char_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => find(chars, at + 3, |rest| rest[0] == '\'').map_or(at, |end| end + 1),
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "let a = \"x.unwrap()\"; // y.unwrap()\n/* z /* nested */ .unwrap() */ let b = r#\"q \" .unwrap()\"#; let c = '\"'; d.unwrap()";
        let blank = blank(text);
        assert_eq!(blank.matches(".unwrap()").count(), 1, "{blank}");
        assert_eq!(blank.chars().count(), text.chars().count());
        assert_eq!(blank.lines().count(), 2);
    }

    #[test]
    fn lifetimes_do_not_open_a_literal() {
        assert_eq!(blank("fn f<'a>(x: &'a str) -> &'a str { x }"), "fn f<'a>(x: &'a str) -> &'a str { x }");
    }

    #[test]
    fn a_test_module_ends_at_its_own_brace() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { if x { } }\n}\nfn c() {}\n";
        assert_eq!(Source::read("core/src/a.rs", text, false).test, [false, true, true, true, true, false]);
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_is_found() {
        let found = test_modules("runtime/src/catalog.rs", "#[cfg(test)]\nmod checks;\nmod real;\n");
        assert_eq!(found, ["runtime/src/catalog/checks.rs", "runtime/src/catalog/checks/mod.rs"]);
    }

    #[test]
    fn a_waiver_needs_a_reason() {
        let source = Source::read(
            "a.rs",
            "// tidy: sleep: the bot's think time is the load\nsleep(x);\nsleep(y); // tidy: sleep: \n",
            false,
        );
        assert!(source.is_waived(2, "sleep"));
        assert!(!source.is_waived(3, "sleep"));
        assert!(!source.is_waived(2, "seam"));
    }
}
