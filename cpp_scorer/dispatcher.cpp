#include "dispatcher.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "errors.h"

namespace {

// What a worker that idled waits for more rows, where there were several callers before: they come nearly at once.
constexpr std::chrono::milliseconds kGather{2};

}  // namespace

struct Dispatcher::Job {
  std::vector<Answer> answers;
  std::vector<Logprobs> logprobs;
  size_t missing = 0;
  std::exception_ptr failure;
  std::condition_variable done;
};

Dispatcher::Dispatcher(Engine& engine, int workers, size_t most_rows, std::function<void(Batched)> on_batch)
    : engine_(engine), most_rows_(most_rows), on_batch_(std::move(on_batch)) {
  try {
    for (int i = 0; i < workers; ++i) workers_.emplace_back([this] { work(); });
  } catch (...) {
    stop();
    throw;
  }
}

Dispatcher::~Dispatcher() { stop(); }

void Dispatcher::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

size_t Dispatcher::waiting_rows() const {
  const std::lock_guard lock(mutex_);
  return waiting_.size();
}

Dispatcher::Scored Dispatcher::score(std::vector<PreparedQuestion> questions, Clock::time_point deadline) {
  const auto job = std::make_shared<Job>();
  job->answers.resize(questions.size());
  std::vector<Item> items;
  for (size_t index = 0; index < questions.size(); ++index) {
    PreparedQuestion& question = questions[index];
    if (!question.error.empty()) {
      job->answers[index] = error_answer(question.id, question.error);
    } else {
      items.push_back({job, index, std::move(question), std::nullopt});
    }
  }
  const Outcome outcome = wait_for(job, std::move(items), deadline);
  return {outcome, outcome == Outcome::kDone ? std::move(job->answers) : std::vector<Answer>()};
}

Dispatcher::Run Dispatcher::run(std::vector<PackedBatch> batches, Clock::time_point deadline) {
  const auto job = std::make_shared<Job>();
  job->logprobs.resize(batches.size());
  std::vector<Item> items;
  for (size_t index = 0; index < batches.size(); ++index) {
    items.push_back({job, index, std::nullopt, std::move(batches[index])});
  }
  const Outcome outcome = wait_for(job, std::move(items), deadline);
  return {outcome, outcome == Outcome::kDone ? std::move(job->logprobs) : std::vector<Logprobs>()};
}

Dispatcher::Outcome Dispatcher::wait_for(const std::shared_ptr<Job>& job, std::vector<Item> items,
                                         Clock::time_point deadline) {
  job->missing = items.size();
  std::unique_lock lock(mutex_);
  if (waiting_.size() + items.size() > most_rows_) return Outcome::kFull;
  std::move(items.begin(), items.end(), std::back_inserter(waiting_));
  changed_.notify_all();
  const auto done = [&] { return job->missing == 0; };
  if (deadline == Clock::time_point::max()) {
    job->done.wait(lock, done);  // some libraries' wait_until overflows on such a time
  } else if (!job->done.wait_until(lock, deadline, done)) {
    const auto of_job = [&](const Item& item) { return item.job == job; };
    waiting_.erase(std::remove_if(waiting_.begin(), waiting_.end(), of_job), waiting_.end());
    return Outcome::kLate;
  }
  if (job->failure) std::rethrow_exception(job->failure);
  return Outcome::kDone;
}

void Dispatcher::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    const bool idle = waiting_.empty();
    changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (idle && last_callers_ > 1) {
      changed_.wait_for(lock, kGather, [this] { return stopping_ || waiting_.size() >= last_callers_; });
    }
    if (waiting_.empty()) {
      if (stopping_) return;
      continue;  // another worker took what came
    }
    std::vector<Item> items = take_batch();
    std::set<const Job*> callers;
    for (const Item& item : items) callers.insert(item.job.get());
    last_callers_ = callers.size();
    lock.unlock();
    std::exception_ptr failure;
    try {
      execute(items);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    finish(items, failure);
  }
}

/// The row that has waited longest, and with it those of like length that a run has room for.
std::vector<Dispatcher::Item> Dispatcher::take_batch() {
  std::vector<Item> taken;
  taken.push_back(std::move(waiting_.front()));
  waiting_.pop_front();
  if (taken[0].packed) return taken;
  Batch batch(*taken[0].question);
  const int64_t length = taken[0].question->encoded.num_tokens();
  std::vector<std::pair<int64_t, size_t>> others;  // how far from that length, and where
  for (size_t at = 0; at < waiting_.size(); ++at) {
    if (waiting_[at].question) others.emplace_back(std::abs(waiting_[at].question->encoded.num_tokens() - length), at);
  }
  std::sort(others.begin(), others.end());
  for (const auto& [distance, at] : others) {
    const PreparedQuestion& question = *waiting_[at].question;
    if (!batch.accepts(question, engine_.options().batch_tokens)) break;
    batch.add(question);
    taken.push_back(std::move(waiting_[at]));
  }
  waiting_.erase(std::remove_if(waiting_.begin(), waiting_.end(), [](const Item& item) { return !item.job; }),
                 waiting_.end());
  return taken;
}

void Dispatcher::execute(std::vector<Item>& items) {
  if (items[0].packed) {
    const PackedBatch& packed = *items[0].packed;
    on_batch_({1, packed.length});
    items[0].job->logprobs[items[0].index] = engine_.session().run(packed);
    return;
  }
  std::vector<PreparedQuestion> questions;
  int64_t tokens = 0;
  for (Item& item : items) {
    tokens += item.question->encoded.num_tokens();
    questions.push_back(std::move(*item.question));
  }
  on_batch_({items.size(), tokens});
  std::vector<Answer> answers = engine_.answer(Batch(questions));
  for (size_t row = 0; row < items.size(); ++row) {
    items[row].job->answers[items[row].index] = std::move(answers[row]);
  }
}

void Dispatcher::finish(const std::vector<Item>& items, std::exception_ptr failure) {
  for (const Item& item : items) {
    if (failure) item.job->failure = failure;
    if (--item.job->missing == 0) item.job->done.notify_all();
  }
}
