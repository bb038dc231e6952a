#pragma once

#include <string>
#include <string_view>

/// Character classes and normalisation as the `tokenizers` library has them. The only part that includes the tables.

/// One bit for each class; no character is in two.
enum CharClass : unsigned {
  kOther = 1,      // of none below
  kUpper = 2,      // \p{Lu} and \p{Lt}
  kLower = 4,      // \p{Ll}
  kUncased = 8,    // \p{Lm} and \p{Lo}
  kMark = 16,      // \p{M}
  kNumber = 32,    // \p{N}
  kDigitOnly = 64, // a number to the pre-tokeniser Digits alone, which goes by a newer Unicode
  kSpace = 128,    // \s
};
constexpr unsigned kLetter = kUpper | kLower | kUncased;  // \p{L}

CharClass char_class(char32_t code);

/// Whether the checked UTF-8 holds a character that NFC may change; most text does not, and needs no copy.
bool may_change_under_nfc(std::string_view text);

/// The checked UTF-8 in Normalization Form C. O(n log n) whatever the marks.
std::string to_nfc(std::string_view text);
