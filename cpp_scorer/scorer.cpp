#include "scorer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iomanip>
#include <sstream>
#include <utility>

#include "batch.h"
#include "prefetcher.h"

void Totals::add(const Answer& answer) {
  ++questions;
  errors += !answer.error.empty();
  labelled += answer.labelled;
  correct += answer.correct;
}

std::string Totals::summary(Score score) const {
  constexpr double z = 1.959964;  // of the standard normal distribution, 95 % two-sided
  const auto n = static_cast<double>(labelled);
  const double accuracy = static_cast<double>(correct) / n;
  const double centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z / (1 + z * z / n) * std::sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n));
  std::ostringstream line;
  line << std::fixed << std::setprecision(2) << "accuracy (" << name_of(score) << "): " << 100 * accuracy
       << "% [" << 100 * std::max(0.0, centre - half) << "%, " << 100 * (centre + half) << "%] " << correct << " of " << labelled
       << ", " << static_cast<double>(questions - errors) / seconds << " questions/s";
  return line.str();
}

Totals score_stream(LineReader& input, OutputFile& output, std::ostream& log, Engine& engine) {
  const auto begin = std::chrono::steady_clock::now();
  Totals totals;
  Prefetcher prefetcher(input, engine.encoder(), engine.options().limits);
  while (auto first = prefetcher.next()) {
    Batch batch(std::move(*first));
    const auto fits = [&](const PreparedQuestion& ready) {
      return batch.accepts(ready, engine.options().batch_tokens);
    };
    while (auto next = prefetcher.next_if(fits)) batch.add(std::move(*next));
    std::string lines;
    size_t row = 0;
    for (const Answer& answer : engine.answer(batch)) {
      totals.add(answer);
      if (!answer.error.empty()) {
        log << "error: " << input.name() << ":" << batch.questions()[row].line << ": " << answer.error << std::endl;
      }
      lines += answer.line;
      ++row;
    }
    output.write(lines);
  }
  totals.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return totals;
}
