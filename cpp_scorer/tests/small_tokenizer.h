#pragma once

#include <string>
#include <vector>

#include "bpe.h"
#include "json.h"

/// tokenizer.json of a small tokenizer of Qwen2's form. The bytes have the ids 0 to 255, what the merges make has 256 and
/// on in their order (the last, abc, is never made, since bc comes before ab), and the added tokens follow: <|end|> and
/// the normalized caf\u00e9, written with a combining accent.
inline std::string small_tokenizer_json() {
  const std::vector<std::vector<std::string>> merges{{"l", "l"},   {"h", "e"},      {"he", "ll"}, {"hell", "o"},
                                                     {"Ġ", "hello"}, {"b", "c"},    {"a", "b"},   {"a", "a"},
                                                     {"aa", "aa"}, {"aaaa", "aaaa"}, {"Ġ", "Ġ"},  {"Ã", "©"},
                                                     {"ab", "c"}};
  std::string vocab, pairs;
  int next = 0;
  const auto add = [&](const std::string& token) {
    vocab += (vocab.empty() ? "" : ", ") + json_quote(token) + ": " + std::to_string(next++);
  };
  for (const std::string& byte : byte_alphabet()) add(byte);
  for (const auto& merge : merges) {
    add(merge[0] + merge[1]);
    pairs += (pairs.empty() ? "[" : ", [") + json_quote(merge[0]) + ", " + json_quote(merge[1]) + "]";
  }
  const auto added = [&](const std::string& content, const std::string& normalized) {
    return "{\"id\": " + std::to_string(next++) + ", \"content\": \"" + content + "\", \"single_word\": false, " +
           "\"lstrip\": false, \"rstrip\": false, \"normalized\": " + normalized + ", \"special\": true}";
  };
  const std::string end = added("<|end|>", "false"), cafe = added("cafe\u0301", "true");
  return R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [)" + end + ", " + cafe +
         R"(], "normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split",)"
         R"( "pattern": {"Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|)"
         R"( ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated", "invert": false},)"
         R"( {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]},)"
         R"( "post_processor": null, "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "dropout": null,)"
         R"( "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": false,)"
         R"( "byte_fallback": false, "ignore_merges": false, "vocab": {)" +
         vocab + R"(}, "merges": [)" + pairs + "]}}";
}
