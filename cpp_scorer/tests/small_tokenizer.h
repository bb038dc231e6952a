#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bpe.h"
#include "json.h"
#include "pretokenize.h"

/// What tokenizer.json writes as normalizer and pre_tokenizer, for the forms that have a small tokenizer below.
namespace form {

inline const std::string kNone = "null", kNfc = R"({"type": "NFC"})";

inline std::string byte_level(const std::string& use_regex) {
  return R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": )" + use_regex + "}";
}

inline std::string sequence(const std::string& list, const std::string& first, const std::string& second) {
  return R"({"type": "Sequence", ")" + list + R"(": [)" + first + ", " + second + "]}";
}

inline std::string split_by(std::string_view regex) {
  return sequence("pretokenizers",
                  R"({"type": "Split", "pattern": {"Regex": )" + json_quote(std::string(regex)) +
                      R"(}, "behavior": "Isolated", "invert": false})",
                  byte_level("false"));
}

inline const std::string kDigits =
    sequence("pretokenizers", R"({"type": "Digits", "individual_digits": true})", byte_level("true"));

inline const std::string kSpaces = R"({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})";
inline const std::string kStartAndSpaces =
    sequence("normalizers", R"({"type": "Prepend", "prepend": "▁"})", kSpaces);
inline const std::string kAtSpaces =
    R"({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false})";

inline std::string metaspace(const std::string& scheme) {
  return R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": ")" + scheme + R"(", "split": false})";
}

}  // namespace form

using SmallMerges = std::vector<std::pair<std::string, std::string>>;

/// tokenizer.json. The first tokens have the ids from 0 on, what the merges make follows in their order, then the added
/// tokens: <|end|>, and `normalized_token`, which is normalized.
inline std::string tokenizer_json(const std::vector<std::string>& first_tokens, const SmallMerges& merges,
                                  const std::string& normalized_token, const std::string& byte_fallback,
                                  const std::string& normalizer, const std::string& pre_tokenizer) {
  std::string vocab, pairs;
  int next = 0;
  const auto add = [&](const std::string& token) {
    vocab += (vocab.empty() ? "" : ", ") + json_quote(token) + ": " + std::to_string(next++);
  };
  for (const std::string& token : first_tokens) add(token);
  for (const auto& [left, right] : merges) {
    add(left + right);
    pairs += (pairs.empty() ? "[" : ", [") + json_quote(left) + ", " + json_quote(right) + "]";
  }
  const auto added = [&](const std::string& content, const std::string& normalized) {
    return "{\"id\": " + std::to_string(next++) + ", \"content\": \"" + content + "\", \"single_word\": false, " +
           "\"lstrip\": false, \"rstrip\": false, \"normalized\": " + normalized + ", \"special\": true}";
  };
  const std::string end = added("<|end|>", "false"), other = added(normalized_token, "true");
  return R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [)" + end + ", " + other +
         R"(], "normalizer": )" + normalizer + R"(, "pre_tokenizer": )" + pre_tokenizer +
         R"(, "post_processor": null, "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "dropout": null,)"
         R"( "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": false,)"
         R"( "byte_fallback": )" + byte_fallback + R"(, "ignore_merges": false, "vocab": {)" + vocab +
         R"(}, "merges": [)" + pairs + "]}}";
}

/// A byte-level tokenizer. The bytes have the ids 0 to 255; the last merge, abc, is never made, since bc comes before
/// ab; the normalized token is caf\u00e9, written with a combining accent.
inline std::string small_tokenizer_json(const std::string& normalizer = form::kNfc,
                                        const std::string& pre_tokenizer = form::split_by(kQwen2Pattern)) {
  const SmallMerges merges{{"l", "l"}, {"h", "e"}, {"he", "ll"}, {"hell", "o"}, {"Ġ", "hello"}, {"b", "c"}, {"a", "b"},
                           {"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}, {"Ġ", "Ġ"}, {"Ã", "©"}, {"ab", "c"}};
  const std::array<std::string, 256> alphabet = byte_alphabet();
  return tokenizer_json({alphabet.begin(), alphabet.end()}, merges, "cafe\u0301", "false", normalizer, pre_tokenizer);
}

/// A tokenizer of characters. The bytes <0x00> and on have the ids 0 to 255; ▁, a, b, c, > and é follow.
inline std::string small_character_tokenizer_json(const std::string& normalizer, const std::string& pre_tokenizer) {
  const SmallMerges merges{{"▁", "a"},   {"a", "b"}, {"▁a", "b"}, {"▁", "▁"},
                           {"▁▁", "▁▁"}, {"é", "a"}, {">", "▁"},  {">▁", "b"}};
  std::vector<std::string> tokens;
  for (const char high : std::string("0123456789ABCDEF")) {
    for (const char low : std::string("0123456789ABCDEF")) tokens.push_back(std::string("<0x") + high + low + ">");
  }
  for (const char* character : {"▁", "a", "b", "c", ">", "é"}) tokens.push_back(character);
  return tokenizer_json(tokens, merges, "b c", "true", normalizer, pre_tokenizer);
}
