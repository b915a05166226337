Feature: Jobs
  Every operation is a job. Its events are kept, replayed and never doubled.

  Scenario: a stream can be opened late, twice, and from any event on
    Given an integrated cluster with a worker
    And a job that writes an answer of 16 tokens
    When I follow the job
    And I follow the job
    Then both times I saw the same events
    And the events are numbered from 1 without a gap
    When I follow the job from after its event 1
    Then I saw the same events without the first
    When I follow the job from after its last event
    Then I saw only [DONE]
    And the job is "succeeded"

  Scenario: a stream is taken up again in the middle of an answer
    Given an integrated cluster with a worker
    And a job that writes an answer of 64 tokens
    When I read 10 of its events and lose the connection
    And I follow the job from after the last event that I saw
    Then all events together are numbered from 1 without a gap
    And the job is "succeeded"

  Scenario: a failed job says why and what to do, and ends
    Given an integrated cluster
    When I try to spawn a worker for the model "nothing"
    Then the job fails and its message mentions "nothing"
    And the stream ended with [DONE]
    And the job is "failed"

  Scenario: jobs are listed, the newest too
    Given an integrated cluster with the demo model
    And a job that has succeeded
    When I get "/v1/jobs"
    Then the status is 200
    And the list holds that job

  Scenario: an unknown job is an error object
    Given an integrated cluster
    When I get "/v1/jobs/00000000-0000-0000-0000-000000000000"
    Then the status is 404
    And the answer is an error object
    When I get "/v1/jobs/00000000-0000-0000-0000-000000000000/stream"
    Then the status is 404
    And the answer is an error object

  Scenario: prompts and answers are kept nowhere
    Given an integrated cluster with a worker
    When a job answers "My favourite animal is the quokkaburra. Say its name."
    And I ask "My favourite animal is the quokkaburra. Say its name."
    Then no file of the home holds "quokkaburra"
