#include "pretokenize.h"

#include <cstdint>

#include "unicode.h"
#include "utf8.h"

namespace {

constexpr unsigned kSymbol = kOther | kMark | kDigitOnly;  // [^\s\p{L}\p{N}]

bool is_newline(char32_t code) { return code == '\r' || code == '\n'; }

bool is_at(std::string_view text, size_t at, unsigned classes) {
  return at < text.size() && (char_class(next_code_point(text, at)) & classes) != 0;
}

/// The end of the run of characters of these classes that begins at `at`, of at most so many.
size_t run_end(std::string_view text, size_t at, unsigned classes, size_t longest = SIZE_MAX) {
  for (; longest > 0 && at < text.size(); --longest) {
    size_t next = at;
    if ((char_class(next_code_point(text, next)) & classes) == 0) break;
    at = next;
  }
  return at;
}

/// The end of (?i:'s|'t|'re|'ve|'m|'ll|'d) at `at`, without (?i:) if so wanted; or `at`, if there is none.
size_t contraction_end(std::string_view text, size_t at, bool any_case = true) {
  if (at >= text.size() || text[at] != '\'') return at;
  const auto letter = [&](size_t offset) {
    const char byte = at + offset < text.size() ? text[at + offset] : '\0';
    return any_case && byte >= 'A' && byte <= 'Z' ? static_cast<char>(byte + ('a' - 'A')) : byte;
  };
  const char first = letter(1), second = letter(2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
  if ((first == 'r' || first == 'v') && second == 'e') return at + 3;
  if (first == 'l' && second == 'l') return at + 3;
  // Case folding makes the long s (U+017F) an s.
  return any_case && text.substr(at + 1, 2) == "\u017F" ? at + 3 : at;
}

/// \s+(?!\S)|\s+ from the first character of white space, behind \s*[\r\n]+ where newlines are set apart.
size_t white_space_end(std::string_view text, size_t start, bool newlines_apart = true) {
  size_t end = start, last = start, behind_newline = start;
  while (end < text.size()) {
    size_t next = end;
    const char32_t code = next_code_point(text, next);
    if (char_class(code) != kSpace) break;
    if (newlines_apart && is_newline(code)) behind_newline = next;
    last = end;
    end = next;
  }
  if (behind_newline > start) return behind_newline;
  // Before a word the run gives back its last character, which then begins the word's own match.
  return end == text.size() || last == start ? end : last;
}

/// What the newer patterns end with:  ?[^\s\p{L}\p{N}]+ and of the bytes in `tail` any number, then white space.
size_t symbols_or_space_end(std::string_view text, size_t start, std::string_view tail) {
  const size_t symbols = start + (text[start] == ' ');
  size_t end = run_end(text, symbols, kSymbol);
  if (end == symbols) return white_space_end(text, start);
  while (end < text.size() && tail.find(text[end]) != tail.npos) ++end;
  return end;
}

/// [^\r\n\p{L}\p{N}]? at `start`: what stands behind it.
size_t behind_prefix(std::string_view text, size_t start) {
  size_t next = start;
  const char32_t code = next_code_point(text, next);
  return is_newline(code) || (char_class(code) & (kLetter | kNumber)) != 0 ? start : next;
}

/// Qwen2's pattern and Llama 3's, which differ in how many digits are a word.
size_t caseless_word_end(std::string_view text, size_t start, size_t longest_number) {
  if (const size_t end = contraction_end(text, start); end > start) return end;
  const size_t letters = behind_prefix(text, start);
  if (const size_t end = run_end(text, letters, kLetter); end > letters) return end;
  if (const size_t end = run_end(text, start, kNumber, longest_number); end > start) return end;
  return symbols_or_space_end(text, start, "\r\n");
}

/// prefix? upper* lower+ | prefix? upper+ lower*, where letters without case and marks are upper and lower both, and
/// the prefix may be a mark; `start` where there is no match. Ends as the expression does, which backtracks.
size_t cased_letters_end(std::string_view text, size_t start) {
  const size_t letters = behind_prefix(text, start);
  size_t end = letters, behind_both = letters;
  for (size_t next = end; next < text.size(); end = next) {
    const CharClass found = char_class(next_code_point(text, next));
    if ((found & (kUpper | kUncased | kMark)) == 0) break;
    if (found != kUpper) behind_both = next;
  }
  if (is_at(text, end, kLower)) return run_end(text, end, kLower | kUncased | kMark);
  if (behind_both > letters) return behind_both;  // upper* gives back as far as the last that lower+ takes
  // The prefix is given back before upper+ is tried.
  if (letters > start && is_at(text, start, kMark)) return letters;
  return end > letters ? end : start;
}

/// The pattern of o200k and Tekken's, which lacks the contractions and takes digits one by one.
size_t cased_word_end(std::string_view text, size_t start, bool contractions, size_t longest_number) {
  if (const size_t end = cased_letters_end(text, start); end > start) {
    return contractions ? contraction_end(text, end) : end;
  }
  if (const size_t end = run_end(text, start, kNumber, longest_number); end > start) return end;
  return symbols_or_space_end(text, start, "\r\n/");
}

}  // namespace

size_t qwen2_word_end(std::string_view text, size_t start) { return caseless_word_end(text, start, 1); }

size_t llama3_word_end(std::string_view text, size_t start) { return caseless_word_end(text, start, 3); }

size_t o200k_word_end(std::string_view text, size_t start) { return cased_word_end(text, start, true, 3); }

size_t tekken_word_end(std::string_view text, size_t start) { return cased_word_end(text, start, false, 1); }

size_t gpt2_word_end(std::string_view text, size_t start) {
  if (const size_t end = contraction_end(text, start, false); end > start) return end;
  const size_t word = start + (text[start] == ' ');
  for (const unsigned classes : {kLetter, unsigned{kNumber}, kSymbol}) {
    if (const size_t end = run_end(text, word, classes); end > word) return end;
  }
  return white_space_end(text, start, false);
}

size_t digit_end(std::string_view text, size_t start) {
  constexpr unsigned digit = kNumber | kDigitOnly;
  const size_t end = run_end(text, start, digit, 1);
  return end > start ? end : run_end(text, start, ~digit);
}
