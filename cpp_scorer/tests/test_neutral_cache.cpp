// What is kept of endings' log-probs after the neutral prompt: by the endings as a whole, and within its bound.

#include "neutral_cache.h"

#include "check.h"

namespace {

using Endings = NeutralCache::Endings;

void endings_are_found_as_a_whole() {
  NeutralCache cache;
  cache.store({{1, 2}, {3}}, {-1.0f, -2.0f});
  CHECK_EQUAL(cache.find({{1, 2}, {3}}).value(), (std::vector<float>{-1.0f, -2.0f}));
  // Others of the same ids, cut elsewhere, in another order, or fewer.
  for (const Endings& others : {Endings{{1}, {2, 3}}, Endings{{3}, {1, 2}}, Endings{{1, 2}}, Endings{{1, 2}, {3}, {}}}) {
    CHECK(!cache.find(others));
  }
}

void the_first_stored_stays() {
  NeutralCache cache;
  cache.store({{1}}, {-1.0f});
  cache.store({{1}}, {-2.0f});
  CHECK_EQUAL(cache.find({{1}}).value(), std::vector<float>{-1.0f});
}

void the_oldest_make_room() {
  NeutralCache cache(10'000);
  for (int64_t id = 0; id < 1000; ++id) cache.store({{id}}, {static_cast<float>(id)});
  CHECK(!cache.find({{0}}));
  int64_t kept = 0;
  for (int64_t id = 0; id < 1000; ++id) kept += cache.find({{id}}).has_value();
  CHECK(kept > 10 && kept < 100);
  CHECK_EQUAL(cache.find({{999}}).value(), std::vector<float>{999.0f});
  cache.store({std::vector<int64_t>(2000)}, {0.0f});  // larger than the bound alone: nothing goes for it
  CHECK(cache.find({{999}}).has_value());
}

}  // namespace

int main() {
  endings_are_found_as_a_whole();
  the_first_stored_stays();
  the_oldest_make_room();
}
