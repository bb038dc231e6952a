// The parts of the tokenizer, and what it refuses. That its ids are those of the `tokenizers` library is held by
// tests/cpp_scorer/test_cpp_tokenizer.py.

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "check.h"
#include "errors.h"
#include "pretokenize.h"
#include "small_tokenizer.h"
#include "tokenizer.h"
#include "tokenizer_json.h"
#include "unicode.h"
#include "utf8.h"

namespace {

using Ids = std::vector<int64_t>;
using Words = std::vector<std::string>;

constexpr int64_t kHello = 259, kSpaceHello = 260, kBc = 261, kEightA = 265;
constexpr int64_t kEAcute = 267, kAbc = 268, kEnd = 269, kCafe = 270;

Tokenizer small_tokenizer() { return Tokenizer(parse_tokenizer_json(small_tokenizer_json())); }

Words words(std::string_view text) {
  Words found;
  for (size_t begin = 0, end; begin < text.size(); begin = end) {
    end = word_end(text, begin);
    found.emplace_back(text.substr(begin, end - begin));
  }
  return found;
}

void invalid_utf8_is_found_at_its_byte() {
  CHECK_EQUAL(find_invalid_utf8("a\u007F\u0080\u07FF\u0800\uD7FF\uE000\uFFFF\U00010000\U0010FFFF"), std::string::npos);
  const std::pair<std::string_view, size_t> cases[] = {
      {"a\x80", 1},         {"\xC0\x80", 0},         {"\xC1\xBF", 0},         {"\xE0\x9F\xBF", 0},
      {"\xED\xA0\x80", 0},  {"\xED\xBF\xBF", 0},     {"\xF0\x8F\xBF\xBF", 0}, {"\xF4\x90\x80\x80", 0},
      {"\xF5\x80\x80\x80", 0}, {"ab\xC3", 2},        {"\xE2\x82", 0},         {"\xF0\x9F\x98", 0},
      {"\xE2\x28\xA1", 0},  {"\xF0\x9F\x98\x28", 0}, {"\xFF", 0}};
  for (const auto& [text, at] : cases) CHECK_EQUAL(find_invalid_utf8(text), at);
  CHECK_THROWS(small_tokenizer().encode("ab\xED\xA0\x80"), RowError, "not UTF-8, at byte 2");
}

void text_is_split_as_by_the_pattern() {
  CHECK_EQUAL(words("It's THE court'S 1st (b)(6)."),
              (Words{"It", "'s", " THE", " court", "'S", " ", "1", "st", " (", "b", ")(", "6", ")."}));
  CHECK_EQUAL(words("we'Ve o'reilly 'ſ don'"), (Words{"we", "'Ve", " o", "'re", "illy", " '", "ſ", " don", "'"}));
  CHECK_EQUAL(words("'ſ"), (Words{"'ſ"}));
  CHECK_EQUAL(words("a  b   \n\n  c \t"), (Words{"a", " ", " b", "   \n\n", " ", " c", " \t"}));
  CHECK_EQUAL(words("end.\r\n\r\n Next\u00A0word\u3000\u3000x"),
              (Words{"end", ".\r\n\r\n", " Next", "\u00A0word", "\u3000", "\u3000x"}));
  CHECK_EQUAL(words("§ 12½ e\u0301"), (Words{"§", " ", "1", "2", "½", " e", "\u0301"}));
  CHECK_EQUAL(words("\n \n"), (Words{"\n \n"}));
  CHECK_EQUAL(words("   "), (Words{"   "}));
  CHECK_EQUAL(words(""), Words{});
}

void text_is_normalised() {
  const std::pair<std::string_view, std::string> cases[] = {
      {"e\u0301", "é"},                    // composed
      {"e\u0323\u0302", "ệ"},              // twice
      {"e\u0302\u0323", "ệ"},              // marks ordered by class
      {"e\u0302\u0301", "ế"},              // equal classes keep their order
      {"e\u0301\u0302", "é\u0302"},        // and the second is blocked
      {"\u212B", "Å"},                     // a singleton
      {"\u0958", "\u0915\u093C"},          // excluded from composition
      {"\u1112\u1161\u11AB", "한"},        // Hangul
      {"\uD558\u11AB", "한"},              // a syllable with a final
      {"\u1112\u11AB", "\u1112\u11AB"},    // no vowel between
      {"\u0301e", "\u0301e"},              // no base before it
      {"plain § text", "plain § text"}};
  for (const auto& [text, expected] : cases) {
    CHECK_EQUAL(to_nfc(text), expected);
    CHECK(may_change_under_nfc(text) || text == expected);
  }
  CHECK(!may_change_under_nfc("naïve § 12 “court” 中文 한글 😀"));
}

void merges_come_in_rank_order() {
  const Tokenizer tokenizer = small_tokenizer();
  CHECK_EQUAL(tokenizer.encode("hello hello"), (Ids{kHello, kSpaceHello}));
  CHECK_EQUAL(tokenizer.encode("abc"), (Ids{'a', kBc}));
  CHECK_EQUAL(tokenizer.encode(std::string(20, 'a')), (Ids{kEightA, kEightA, kEightA - 1}));
  CHECK_EQUAL(tokenizer.encode("e\u0301"), Ids{kEAcute});
  CHECK_EQUAL(tokenizer.encode(""), Ids{});
}

void added_tokens_are_found_inside_text() {
  const Tokenizer tokenizer = small_tokenizer();
  CHECK_EQUAL(tokenizer.encode("hello<|end|> hello<|end|><|end"),
              (Ids{kHello, kEnd, kSpaceHello, kEnd, '<', '|', 'e', 'n', 'd'}));
  CHECK_EQUAL(tokenizer.encode("caf\u00E9hello"), (Ids{kCafe, kHello}));
  CHECK_EQUAL(tokenizer.encode("cafe\u0301"), Ids{kCafe});
  // What follows an added token does not combine with what stands before it.
  CHECK_EQUAL(tokenizer.encode("e<|end|>\u0301"), (Ids{'e', kEnd, 0xCC, 0x81}));
}

/// The small tokenizer with one place of its file changed.
std::string changed(const std::string& place, const std::string& replacement) {
  std::string json = small_tokenizer_json();
  const size_t at = json.find(place);
  CHECK(at != std::string::npos);
  return json.replace(at, place.size(), replacement);
}

void what_would_give_other_ids_is_refused() {
  const std::vector<std::vector<std::string>> cases = {
      // place, replacement, what the error must hold
      {"\"1.0\"", "\"2.0\"", "field 'version'"},
      {"\"truncation\": null", "\"truncation\": {\"max_length\": 8}", "'truncation'"},
      {"\"padding\": null", "\"padding\": {}", "'padding'"},
      {"{\"type\": \"NFC\"}", "null", "'normalizer': null"},
      {"{\"type\": \"NFC\"}", "{\"type\": \"NFKC\"}", "NFKC"},
      {"\\\\p{N}|", "\\\\p{N}{1,3}|", "'pre_tokenizer'"},
      {"\"Isolated\"", "\"Removed\"", "'pre_tokenizer'"},
      {"\"add_prefix_space\": false", "\"add_prefix_space\": true", "'pre_tokenizer'"},
      {"\"pre_tokenizer\": ", "\"pre_tokenizer\": null, \"decoder\": ", "'pre_tokenizer'"},
      {"\"post_processor\": null", "\"post_processor\": {\"type\": \"TemplateProcessing\"}", "'post_processor'"},
      {"\"model\"", "\"future\": 1, \"model\"", "future"},
      {"\"BPE\"", "\"Unigram\"", "'type'"},
      {"\"dropout\": null", "\"dropout\": 0.1", "'dropout': 0.1"},
      {"\"unk_token\": null", "\"unk_token\": \"<unk>\"", "'unk_token'"},
      {"\"end_of_word_suffix\": \"\"", "\"end_of_word_suffix\": \"</w>\"", "'end_of_word_suffix'"},
      {"\"continuing_subword_prefix\": \"\"", "\"continuing_subword_prefix\": \"##\"", "'continuing_subword_prefix'"},
      {"\"byte_fallback\": false", "\"byte_fallback\": true", "'byte_fallback'"},
      {"\"fuse_unk\": false", "\"fuse_unk\": true", "'fuse_unk'"},
      {"\"ignore_merges\": false", "\"ignore_merges\": 0", "'ignore_merges'"},
      {"\"single_word\": false", "\"single_word\": true", "'single_word'"},
      {"\"lstrip\": false", "\"lstrip\": true", "'lstrip'"},
      {"\"rstrip\": false", "\"rstrip\": true", "'rstrip'"},
      {"\"id\": 269", "\"id\": 400", "'<|end|>' has id 400, but loading it elsewhere gives 269"},
      {"cafe\u0301", "", "'' is empty"},
      {"cafe\u0301", "<|end|>", "'<|end|>' "},
      {"\"hello\": 259", "\"hullo\": 259", "'hello' is missing"},
      {"\"a\": 97, ", "", "'a' is missing"},
      {"\"hello\": 259", "\"hello\": -1", "'hello': has no valid id"},
      {"[\"h\", \"e\"]", "\"h e l\"", "merge 1 is no pair"},
      {"[\"h\", \"e\"]", "[\"h\"]", "merge 1 is no pair"},
      {"\"merges\": [", "\"merges\": 3, \"merged\": [", "'model.merged'"},
      {"\"merges\"", "\"merges\": \xFF", "broken JSON or not UTF-8"},
      {"]}}", "", "broken JSON"}};
  for (const auto& parts : cases) {
    CHECK_THROWS(Tokenizer(parse_tokenizer_json(changed(parts[0], parts[1]))), FatalError, parts[2]);
  }
  CHECK_THROWS(parse_tokenizer_json("[]"), FatalError, "not an object");
  CHECK_THROWS(parse_tokenizer_json("{}"), FatalError, "'version'");
  CHECK_THROWS(Tokenizer::load("no/such/tokenizer.json"), FatalError, "no/such/tokenizer.json: cannot be read");
}

void what_changes_no_ids_is_accepted() {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"\"trim_offsets\": false", "\"trim_offsets\": true"},
      {"\"decoder\": {\"type\": \"ByteLevel\"}", "\"decoder\": null"},
      {"\"post_processor\": null", "\"post_processor\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true}"},
      {"\"dropout\": null", "\"dropout\": 0.0"},
      {"\"continuing_subword_prefix\": \"\"", "\"continuing_subword_prefix\": null"},
      {"[\"h\", \"e\"]", "\"h e\""}};
  for (const auto& [place, replacement] : cases) {
    CHECK_EQUAL(Tokenizer(parse_tokenizer_json(changed(place, replacement))).encode("hello"), Ids{kHello});
  }
}

void words_of_the_vocabulary_can_come_before_merges() {
  const std::string json = changed("\"ignore_merges\": false", "\"ignore_merges\": true");
  const Tokenizer tokenizer(parse_tokenizer_json(json));
  CHECK_EQUAL(tokenizer.encode("abc"), Ids{kAbc});
  CHECK_EQUAL(tokenizer.encode("abcd hello"), (Ids{'a', kBc, 'd', kSpaceHello}));
  CHECK_EQUAL(small_tokenizer().encode("abc"), (Ids{'a', kBc}));
}

void time_grows_with_the_text_and_not_its_square() {
  const Tokenizer tokenizer = small_tokenizer();
  for (const std::string piece : {"a", "ab", " ", "\n ", "'", "<|end", "=", "\u0301", "e\u0323\u0302", "\u1112\u1161"}) {
    std::string text;
    while (text.size() < 400'000) text += piece;
    const auto start = std::chrono::steady_clock::now();
    CHECK(!tokenizer.encode(text).empty());
    // A tenth of a second, or one under the sanitizers; steps by the square of 400,000 would take minutes.
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(15));
  }
}

}  // namespace

int main() {
  invalid_utf8_is_found_at_its_byte();
  text_is_split_as_by_the_pattern();
  text_is_normalised();
  merges_come_in_rank_order();
  added_tokens_are_found_inside_text();
  what_would_give_other_ids_is_refused();
  what_changes_no_ids_is_accepted();
  words_of_the_vocabulary_can_come_before_merges();
  time_grows_with_the_text_and_not_its_square();
}
