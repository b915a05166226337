Feature: Supervision
  What happens to a worker needs no person, until it happens too often.

  Scenario Outline: a worker that is killed comes back in an <topology> cluster
    Given an <topology> cluster with a worker
    When the worker is killed
    Then the same worker runs in another process
    And the queen lists 1 worker that is ready
    When I ask "What is the capital of Japan?"
    Then the answer is some text
    And another process than the killed one has answered

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario: a worker that hangs is replaced
    Given an integrated cluster with a worker
    When the worker hangs
    Then the same worker runs in another process
    When I run "rbee-keeper worker get $WORKER"
    Then its stdout mentions "no sign of life"

  Scenario: a worker that is killed too often is given up until somebody restarts it
    Given a distributed cluster with a worker
    When the worker is killed until it does not come back
    And I run "rbee-keeper worker get $WORKER"
    Then its stdout mentions "5 failures within 10 min"
    And its stdout mentions "rbee-keeper worker restart $WORKER"
    When I ask "What is the capital of Japan?" and expect no answer
    Then the status is 503
    When I run "rbee-keeper worker restart $WORKER"
    Then it succeeds
    And the same worker runs in another process
    When I ask "What is the capital of Japan?"
    Then the answer is some text

  Scenario: what a worker has written is shown, also of its processes before
    Given a distributed cluster with a worker
    When the worker is killed
    Then the same worker runs in another process
    When I run "rbee-keeper worker logs $WORKER -n 1000 --json"
    Then its stdout is a JSON array
    And its stdout mentions "the model is loaded"
    When I run "rbee-keeper worker logs $WORKER -n 1"
    Then it succeeds
    Given "rbee-keeper worker logs $WORKER -f" is writing
    When I press Ctrl-C
    Then it exits with 130
    When I run "rbee-keeper worker logs w-unknown"
    Then it exits with 1
    And its stderr mentions "w-unknown"

  Scenario: hive and worker are killed
    Given a distributed cluster with a worker
    When the hive is killed
    And the worker is killed
    And the hive starts again
    Then the hive lists 0 workers
    When I ask "What is the capital of Japan?"
    Then the answer is some text

  Scenario: down ends the workers of a hive that was killed
    Given a distributed cluster with a worker
    When the hive is killed
    And I run "rbee-keeper down"
    Then it succeeds
    And no process runs

  Scenario: down ends workers that no list names any longer
    Given a distributed cluster with a worker
    When the hive is killed
    And the hive's list of its workers is damaged
    And I run "rbee-keeper down"
    Then it succeeds
    And its stdout mentions "a worker that no list names"
    And no process runs

  Scenario: a second machine that has the name of the first one has no part
    Given a distributed cluster with a worker
    And another machine that calls itself "localhost" as well
    When I run "rbee-keeper hive list"
    Then its stdout mentions "name also used at http://"
    When I ask "What is the capital of Japan?"
    Then the answer is some text
