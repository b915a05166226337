Feature: Several machines
  A hive on another machine reports to the queen, and its workers answer with the others.

  Scenario Outline: a model that only another machine has, in an <topology> cluster
    Given an <topology> cluster
    And another machine "gpu-1" with the demo model
    When I ask "What is the capital of Japan?"
    Then the answer is some text
    And 1 worker runs on "gpu-1"
    And 0 workers run on "localhost"
    When I run "rbee-keeper worker list --hive gpu-1 --json"
    Then its stdout is a JSON array of 1
    When I run "rbee-keeper hive list --json"
    Then its stdout is a JSON array of 2

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario: two machines share the requests
    Given an integrated cluster with a worker
    And another machine "gpu-1" with a worker
    And 2 very long answers that are being streamed to me
    Then each of the 2 workers has 1 busy slot

  Scenario: a machine loses its power
    Given an integrated cluster with a worker
    And another machine "gpu-1" with a worker
    When the other machine loses its power
    And 4 people ask "What is the capital of Japan?" at once
    Then each of the 4 answers is some text
    And the queen lists 1 worker that is ready

  Scenario: a machine without the queen's secret has no part
    Given an integrated cluster that is not running
    And I have created a token
    When I run "rbee-keeper queen start"
    Then it succeeds
    When a stranger reports a worker of his own
    Then the status is 401
    When I use the token
    Then the queen lists 0 workers
