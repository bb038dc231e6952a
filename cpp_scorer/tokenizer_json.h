#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

/// What a tokenizer.json of Qwen2's form says: NFC, Qwen2's split, byte-level BPE.
struct TokenizerSpec {
  struct AddedToken {
    std::string content;
    uint32_t id;
    bool normalized;  // looked for in the text after NFC, not before
  };

  std::unordered_map<std::string, uint32_t> vocab;  // tokens in the byte-level alphabet
  std::vector<std::pair<std::string, std::string>> merges;  // in rank order
  std::vector<AddedToken> added_tokens;  // in the file's order
  bool ignore_merges = false;  // a word that is in the vocabulary is one token, whatever the merges say
};

/// Reads tokenizer.json. The only part that parses JSON here. Throws FatalError, naming the field and what it holds, for
/// broken JSON and for every setting that would give ids other than those of the form above.
TokenizerSpec parse_tokenizer_json(const std::string& text);
