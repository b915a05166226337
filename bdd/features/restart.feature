Feature: Daemons restart
  A daemon that ends, cleanly or not, takes no worker with it.

  Scenario: the queen restarts beside its hive
    Given a distributed cluster with a worker
    And a job that has succeeded
    When the queen is terminated and started again
    Then the worker is the same process as before
    And the queen lists 1 worker that is ready
    And the job is "succeeded"
    When I ask "What is the capital of Japan?"
    Then the answer is some text

  Scenario Outline: the queen of an <topology> cluster is killed and started again
    Given an <topology> cluster with a worker
    And a job that has succeeded
    When the queen is killed and started again
    Then the worker is the same process as before
    And the queen lists 1 worker that is ready
    And the job is "succeeded"
    When I ask "What is the capital of Japan?"
    Then the answer is some text

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario Outline: the queen of an <topology> cluster is stopped by command and started again
    Given an <topology> cluster with a worker
    When I run "rbee-keeper queen stop"
    Then it succeeds
    And its stdout mentions "1 worker runs on; `rbee-keeper down` ends it, too"
    And no process of "queen-rbee" runs soon
    And the worker is the same process as before
    When the queen starts again
    Then the worker is the same process as before
    And the queen lists 1 worker that is ready
    When I ask "What is the capital of Japan?"
    Then the answer is some text
    When I run "rbee-keeper down"
    Then it succeeds
    And no worker process runs

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario: the workers of a queen that was stopped are ended by down
    Given an integrated cluster with a worker
    When I run "rbee-keeper queen stop"
    And I run "rbee-keeper down"
    Then it succeeds
    And no worker process runs

  Scenario: the queen restarts by command
    Given an integrated cluster that is not running
    When I run "rbee-keeper up"
    And I run "rbee-keeper model import $MODEL --alias smollm2-135m"
    And I run "rbee-keeper worker spawn --model smollm2-135m --device CPU-0"
    Then it succeeds
    When I run "rbee-keeper queen restart"
    Then it succeeds
    And its stdout mentions "is running at"
    And 1 process of "queen-rbee" runs
    And 1 process of "llm-worker-rbee" runs
    And the queen lists 1 worker that is ready
    When I run "rbee-keeper down"
    Then it succeeds
    And no process runs

  Scenario: a queen that is terminated takes the workers of her own hive with her, as a hive does
    Given an integrated cluster with a worker
    When the queen is terminated and started again
    Then no worker process runs

  Scenario: a job that the queen's end interrupted says so
    Given an integrated cluster with a worker
    And a job that writes a very long answer
    When the queen is killed and started again
    Then the job is "failed"
    And the job's stream ends with the error "interrupted" and [DONE]
    And every slot is free within 5 seconds

  Scenario: the hive is killed and adopts its workers when it starts again
    Given a distributed cluster with a worker
    When the hive is killed
    And I ask "What is the capital of Japan?"
    Then the answer is some text
    When the hive starts again
    Then the worker is the same process as before
    And the hive lists 1 worker that is ready
    When I delete that worker
    Then no worker process runs
