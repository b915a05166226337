Feature: A worker is killed
  A worker can end at any instant. Its answers go on in another process, and its clients notice nothing.

  Scenario Outline: killed in the middle of an answer in an <topology> cluster
    Given an <topology> cluster with a worker
    And a very long answer that is being streamed to me
    When the worker is killed
    Then the stream goes on with more text and no error
    And the hive lists 1 worker that is ready
    When I close the connection
    And I ask "What is the capital of Japan?"
    Then the answer is some text
    And another process than the killed one has answered

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario: killed while it is idle
    Given an integrated cluster with a worker
    When the worker is killed
    And I ask "What is the capital of Japan?"
    Then the answer is some text

  Scenario: killed while a job reads its answer
    Given an integrated cluster with a worker
    And a job that writes a very long answer
    When the worker is killed
    Then the job is "succeeded"
    And queen and hive are healthy
