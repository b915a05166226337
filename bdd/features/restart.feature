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
