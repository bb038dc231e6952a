#include "tokenizer_reader.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "errors.h"

using Json = nlohmann::json;

namespace {

constexpr uint64_t kLargestId = INT32_MAX;
constexpr size_t kDeepest = 32;  // nested arrays and objects; no form has more than 8

class Reader : public nlohmann::json_sax<Json> {
 public:
  explicit Reader(TokenizerSpec& spec) : spec_(spec) {}

  Json tree;

  bool null() override { return value(nullptr); }
  bool boolean(bool flag) override { return value(flag); }
  bool number_integer(int64_t number) override { return value(number); }
  bool number_unsigned(uint64_t number) override { return value(number); }
  bool number_float(double number, const std::string&) override { return value(number); }
  bool binary(Json::binary_t&) override { return false; }  // JSON has none

  bool string(std::string& text) override {
    if (part_ == Part::kMerges) {
      add_merge(text);
    } else if (part_ == Part::kPair) {
      pair_.push_back(std::move(text));
    } else {
      return value(std::move(text));
    }
    return true;
  }

  bool key(std::string& name) override {
    key_ = std::move(name);
    return true;
  }

  bool start_object(size_t) override {
    if (part_ != Part::kTree) return value(Json::object());
    open(Json::object());
    if (is_in_model("vocab")) part_ = Part::kVocab;
    return true;
  }

  bool start_array(size_t) override {
    if (part_ == Part::kMerges) {
      part_ = Part::kPair;
      pair_.clear();
      return true;
    }
    if (part_ != Part::kTree) return value(Json::array());
    open(Json::array());
    if (is_in_model("merges")) part_ = Part::kMerges;
    return true;
  }

  bool end_object() override { return close(); }

  bool end_array() override {
    if (part_ != Part::kPair) return close();
    if (pair_.size() != 2) fail_at_merge();
    spec_.merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
    part_ = Part::kMerges;
    return true;
  }

  bool parse_error(size_t at, const std::string&, const Json::exception& error) override {
    if (dynamic_cast<const Json::out_of_range*>(&error)) throw FatalError("broken JSON: a number is out of range");
    throw FatalError("broken JSON or not UTF-8, at byte " + std::to_string(at));
  }

 private:
  enum class Part { kTree, kVocab, kMerges, kPair };

  [[noreturn]] void fail_at_merge() const {
    fail_at_field("merges", "merge " + std::to_string(spec_.merges.size()) + " is no pair of tokens");
  }

  /// A merge as older versions write it: "a b". A comment, as merges.txt has, is none: what reads it gives other ids.
  void add_merge(const std::string& text) {
    const size_t space = text.find(' ');
    if (space == text.npos || text.find(' ', space + 1) != text.npos || text.rfind("#version", 0) == 0) fail_at_merge();
    spec_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }

  bool value(Json json) {
    switch (part_) {
      case Part::kTree: add(std::move(json)); break;
      case Part::kVocab:
        if (!spec_.vocab.emplace(key_, token_id(json, key_)).second) fail_at_field(key_, "is there twice");
        break;
      default: fail_at_merge();
    }
    return true;
  }

  Json* add(Json json) {
    if (open_.empty()) return &(tree = std::move(json));
    Json& parent = *open_.back();
    if (parent.is_array()) return &parent.emplace_back(std::move(json));
    const auto [place, is_new] = parent.emplace(key_, std::move(json));
    if (!is_new) fail_at_field(key_, "is there twice");
    return &*place;
  }

  void open(Json container) {
    if (open_.size() == kDeepest) {
      throw FatalError("broken JSON: nested deeper than " + std::to_string(kDeepest) + " levels");
    }
    open_.push_back(add(std::move(container)));
  }

  bool close() {
    part_ = Part::kTree;
    open_.pop_back();
    return true;
  }

  /// Whether what was opened last is this field of the tree's `model`.
  bool is_in_model(const char* field) const {
    const auto is_field_of = [](const Json& object, const char* name, const Json* place) {
      const auto found = object.find(name);
      return found != object.end() && &*found == place;
    };
    return open_.size() == 3 && is_field_of(tree, "model", open_[1]) && is_field_of(*open_[1], field, open_[2]);
  }

  TokenizerSpec& spec_;
  Part part_ = Part::kTree;
  std::vector<Json*> open_;  // containers, from the outermost; none grows but the last
  std::string key_;
  std::vector<std::string> pair_;
};

}  // namespace

void fail_at_field(const std::string& field, const std::string& what) {
  throw FatalError("field '" + field + "': " + what);
}

uint32_t token_id(const Json& value, const std::string& token) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kLargestId) fail_at_field(token, "has no valid id");
  return value.get<uint32_t>();
}

Json read_tokenizer(const std::string& text, TokenizerSpec& spec) {
  Reader reader(spec);
  Json::sax_parse(text, &reader);
  return std::move(reader.tree);
}
