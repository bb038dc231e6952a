// What comes before byte-pair encoding: normalisers, and how the patterns split. That both are those of the
// `tokenizers` library is held by tests/test_cpp_tokenizer.py.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "check.h"
#include "normalize.h"
#include "pretokenize.h"
#include "unicode.h"

namespace {

using Words = std::vector<std::string>;

Words words(Split split, std::string_view text) {
  Words found;
  for (size_t begin = 0, end; begin < text.size(); begin = end) {
    end = split(text, begin);
    found.emplace_back(text.substr(begin, end - begin));
  }
  return found;
}

void qwen2_splits_letters_single_digits_and_symbols() {
  const auto split = [](std::string_view text) { return words(qwen2_word_end, text); };
  CHECK_EQUAL(split("It's THE court'S 1st (b)(6)."),
              (Words{"It", "'s", " THE", " court", "'S", " ", "1", "st", " (", "b", ")(", "6", ")."}));
  CHECK_EQUAL(split("we'Ve o'reilly 'ſ don'"), (Words{"we", "'Ve", " o", "'re", "illy", " '", "ſ", " don", "'"}));
  CHECK_EQUAL(split("'ſ"), (Words{"'ſ"}));
  CHECK_EQUAL(split("a  b   \n\n  c \t"), (Words{"a", " ", " b", "   \n\n", " ", " c", " \t"}));
  CHECK_EQUAL(split("end.\r\n\r\n Next\u00A0word\u3000\u3000x"),
              (Words{"end", ".\r\n\r\n", " Next", "\u00A0word", "\u3000", "\u3000x"}));
  CHECK_EQUAL(split("§ 12½ e\u0301"), (Words{"§", " ", "1", "2", "½", " e", "\u0301"}));
  CHECK_EQUAL(split("\n \n"), (Words{"\n \n"}));
  CHECK_EQUAL(split("   "), (Words{"   "}));
  CHECK_EQUAL(split(""), Words{});
}

void llama3_takes_three_digits() {
  CHECK_EQUAL(words(llama3_word_end, "It's 12345½ U.S.C."),
              (Words{"It", "'s", " ", "123", "45½", " U", ".S", ".C", "."}));
}

void gpt2_takes_a_space_before_any_word() {
  CHECK_EQUAL(words(gpt2_word_end, "It's o'RE we'LL 12345 (b)\n\n  x\u00A0y e\u0301 '\u017F"),
              (Words{"It", "'s", " o", "'", "RE", " we", "'", "LL", " 12345", " (", "b", ")", "\n\n ", " x", "\u00A0",
                     "y", " e", "\u0301", " '", "\u017F"}));
}

void digits_stand_alone() {
  CHECK_EQUAL(words(digit_end, "on 12½ or"), (Words{"on ", "1", "2", "½", " or"}));
  // A number to this pre-tokeniser, an unknown character to the expressions.
  CHECK_EQUAL(words(digit_end, "a\U00011DE1\U00011DE2"), (Words{"a", "\U00011DE1", "\U00011DE2"}));
  CHECK_EQUAL(words(gpt2_word_end, "\U00011DE1.\U00011DE2"), (Words{"\U00011DE1.\U00011DE2"}));
}

void o200k_splits_where_case_changes() {
  const auto split = [](std::string_view text) { return words(o200k_word_end, text); };
  CHECK_EQUAL(split("McDonald HTTPServer ABC"), (Words{"Mc", "Donald", " HTTPServer", " ABC"}));
  CHECK_EQUAL(split("it's OK'LL don'T x'"), (Words{"it's", " OK'LL", " don'T", " x", "'"}));
  CHECK_EQUAL(split("1234 a/b//\n/ \n/"), (Words{"123", "4", " a", "/b", "//\n/", " \n", "/"}));
  // Letters without case end a lower part and begin an upper one; upper* gives back to the last of them.
  CHECK_EQUAL(split("A中B"), (Words{"A中", "B"}));
  CHECK_EQUAL(split("AB中CDe"), (Words{"AB中CDe"}));
  CHECK_EQUAL(split("e\u0301A"), (Words{"e\u0301", "A"}));
  // A mark may be the prefix, or what lower+ takes where no other letter can be.
  CHECK_EQUAL(split(".\u0301AB \u0301ab \u0301AB"), (Words{".\u0301", "AB", " \u0301ab", " \u0301", "AB"}));
  CHECK_EQUAL(split("\u0301AB \u0301"), (Words{"\u0301", "AB", " \u0301"}));
  CHECK_EQUAL(split("\u0301ab"), (Words{"\u0301ab"}));
}

void tekken_lacks_contractions() {
  CHECK_EQUAL(words(tekken_word_end, "it's OK'LL 12"), (Words{"it", "'s", " OK", "'LL", " ", "1", "2"}));
}

void text_is_composed() {
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

void spaces_become_marks() {
  const auto made = [](Rewrite rewrite, std::string_view piece, bool first = true) {
    std::string room;
    return std::string(rewrite(piece, first, room));
  };
  CHECK_EQUAL(made(as_it_is, " a"), " a");
  CHECK_EQUAL(made(mark_spaces, "a  b "), "a▁▁b▁");
  CHECK_EQUAL(made(mark_spaces_and_start, " a"), "▁▁a");
  CHECK_EQUAL(made(mark_spaces_and_start, "a", false), "▁a");
  CHECK_EQUAL(made(mark_spaces_and_bare_start, "a b", false), "▁a▁b");
  CHECK_EQUAL(made(mark_spaces_and_bare_start, " a"), "▁a");
  CHECK_EQUAL(made(mark_spaces_and_bare_start, "▁a"), "▁a");
  CHECK_EQUAL(made(mark_spaces_and_bare_text, "a"), "▁a");
  CHECK_EQUAL(made(mark_spaces_and_bare_text, "a", false), "a");
}

}  // namespace

int main() {
  qwen2_splits_letters_single_digits_and_symbols();
  llama3_takes_three_digits();
  gpt2_takes_a_space_before_any_word();
  digits_stand_alone();
  o200k_splits_where_case_changes();
  tekken_lacks_contractions();
  text_is_composed();
  spaces_become_marks();
}
