#pragma once

#include <string>
#include <string_view>

/// What a normaliser, or a pre-tokeniser before it splits, makes of a piece of checked UTF-8. `first`: whether the
/// piece begins the whole text. The result lies in the piece itself or in `room`.
using Rewrite = std::string_view (*)(std::string_view piece, bool first, std::string& room);

std::string_view as_it_is(std::string_view piece, bool first, std::string& room);

std::string_view nfc(std::string_view piece, bool first, std::string& room);

/// The mark that stands for a space in the vocabularies made by sentencepiece: U+2581.
inline constexpr std::string_view kSpaceMark = "\u2581";

/// Every space becomes the mark.
std::string_view mark_spaces(std::string_view piece, bool first, std::string& room);

/// The same, with one mark more before every piece: the normalisers Prepend and Replace.
std::string_view mark_spaces_and_start(std::string_view piece, bool first, std::string& room);

/// The same, with a mark before every piece that has none at its start: Metaspace, prepend_scheme "always".
std::string_view mark_spaces_and_bare_start(std::string_view piece, bool first, std::string& room);

/// The same for the piece that begins the text alone: Metaspace, prepend_scheme "first".
std::string_view mark_spaces_and_bare_text(std::string_view piece, bool first, std::string& room);
