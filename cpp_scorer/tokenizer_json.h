#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "normalize.h"
#include "pretokenize.h"

/// How a tokenizer turns text into the words that are merged.
struct TokenizerForm {
  const char* name;           // of a family that has it
  Rewrite normalise;          // before added tokens that are `normalized` are looked for
  Rewrite rewrite;            // after that, by the pre-tokeniser
  std::vector<Split> splits;  // each splits the pieces of the one before
  bool byte_level;            // the vocabulary's characters stand for bytes; else for themselves
};

/// What a tokenizer.json of a known form says.
struct TokenizerSpec {
  struct AddedToken {
    std::string content;
    uint32_t id;
    bool normalized;      // looked for in the text after it was normalised, not before
    bool lstrip, rstrip;  // takes the white space before it, and behind it
  };

  TokenizerForm form;
  std::unordered_map<std::string, uint32_t> vocab;
  std::vector<std::pair<std::string, std::string>> merges;  // in rank order
  std::vector<AddedToken> added_tokens;                     // in the file's order
  bool ignore_merges = false;       // a word that is in the vocabulary is one token, whatever the merges say
  bool leaves_out_unknown = false;  // a byte that the vocabulary lacks gets no token
};

/// Reads tokenizer.json. Throws FatalError, naming the field and what it holds, for broken JSON and for every setting
/// that would give ids other than those of the known forms.
TokenizerSpec parse_tokenizer_json(const std::string& text);
