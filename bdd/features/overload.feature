Feature: Overload
  More requests than can run wait their turn, in bounds; who does not fit is told when to come again.

  Scenario: requests wait for a slot and are all answered
    Given an integrated cluster with a worker of 1 slot
    When 6 people ask "What is the capital of Japan?" at once
    Then each of the 6 answers is some text

  Scenario: a full queue refuses at once and says when to come again
    Given an integrated cluster with a worker of 1 slot and a queue of 1
    And a very long answer that is being streamed to me
    And as many requests wait as may wait
    When I ask "What is the capital of Japan?" and expect no answer
    Then the status is 429
    And the answer is an error object
    And the answer says when to come again

  Scenario: a request does not outlive its deadline
    Given an integrated cluster with a worker and a deadline of 2 seconds
    When I ask for a very long answer
    Then the status is 504
    And the answer is an error object
    And every slot is free within 3 seconds

  Scenario: the queen finishes an answer before she ends
    Given a distributed cluster with a worker
    When I ask "Tell me about bees." in pieces, while the queen is told to end
    Then the stream ended with a finish reason and [DONE]
    And the queen ended with exit code 0
    And 1 worker process runs
