Feature: Priorities
  Somebody waits for an interactive request; a batch request takes what is left.

  Scenario: interactive requests are answered before batch requests that came earlier
    Given an integrated cluster with a worker of 1 slot
    And a very long answer that is being streamed to me
    And 3 batch requests that wait
    And 3 interactive requests that wait
    When I close the connection
    Then every interactive request is answered before any batch one

  Scenario: in a full queue a batch request makes room for somebody who waits
    Given an integrated cluster with a worker of 1 slot and a queue of 1
    And a very long answer that is being streamed to me
    And 1 batch request that waits
    When interactive requests come until somebody has to go
    Then the status is 429
    And the answer is an error object
    And the answer says when to come again
    When I close the connection
    Then every request that waits is answered
