#pragma once

#include <string>
#include <string_view>

/// Character classes and normalisation as the `tokenizers` library has them. The only part that includes the tables.

enum class CharClass : unsigned char { kOther, kLetter, kNumber, kSpace };

/// \p{L}, \p{N}, \s, or none of them.
CharClass char_class(char32_t code);

/// Whether the checked UTF-8 holds a character that NFC may change; most text does not, and needs no copy.
bool may_change_under_nfc(std::string_view text);

/// The checked UTF-8 in Normalization Form C. O(n log n) whatever the marks.
std::string to_nfc(std::string_view text);
