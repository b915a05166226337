Feature: Cancelling
  Nobody waits for an answer that nobody wants.

  Scenario: a cancelled job stops its generation
    Given an integrated cluster with a worker
    And a job that writes a very long answer
    When I cancel the job
    Then the job's stream ends with a "cancelled" event and [DONE]
    And the job is "cancelled"
    And every slot is free within 3 seconds

  Scenario: a closed connection frees its slot
    Given an integrated cluster with a worker of 1 slot
    And a very long answer that is being streamed to me
    When I close the connection
    Then every slot is free within 3 seconds
    When I ask "What is the capital of Japan?"
    Then the answer is some text

  Scenario: a request that waits for a slot can be given up, too
    Given an integrated cluster with a worker of 1 slot
    And a very long answer that is being streamed to me
    And a second request that waits for the slot
    When the second request is given up
    And I close the connection
    Then every slot is free within 3 seconds

  Scenario: a job that has ended cannot be cancelled into another state
    Given an integrated cluster with the demo model
    And a job that has succeeded
    When I cancel the job
    Then the job is "succeeded"
