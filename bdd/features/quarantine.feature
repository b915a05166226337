Feature: Quarantine
  A request over which worker after worker ends is given up, and nobody else pays for it.

  Scenario: a request that ends two workers fails alone, and is not tried again
    Given a distributed cluster with a worker
    When I spawn a worker
    And I spawn a worker
    Then the queen lists 3 workers that are ready
    Given a very long answer that is being streamed to me
    When a request comes whose workers are killed, one after the other
    Then the status is 422
    And the error code is "request_quarantined"
    And 2 workers were killed
    And the stream goes on with more text and no error
    When I ask "What is the capital of Japan?"
    Then the answer is some text
    And the queen lists 3 workers that are ready
    When the same request comes again
    Then the status is 422
    And the error code is "request_quarantined"
