# Copyright 2026 The pushit authors
# SPDX-License-Identifier: Apache-2.0

require "json"
require "net/http"
require "securerandom"

# Publishes on the channels of pushit. It needs no gem.
class PushIt
  # The message was not published.
  class Failed < StandardError; end

  ATTEMPTS = 3
  NO_ANSWER = [SystemCallError, IOError, SocketError, Timeout::Error, Net::ProtocolError].freeze

  # url is the endpoint, such as https://example.com/push.
  def initialize(url: ENV.fetch("PUSHIT_URL"), secret: ENV.fetch("PUBLISHER_SECRET"))
    @uri = URI("#{url}/publish")
    @secret = secret
  end

  # Publishes a message. data is anything that JSON can say. The message may be sent more
  # than once: the uuid sees to it that it is published once. Give your own if you may call
  # this again for the same message.
  def publish(channel, data, uuid: SecureRandom.uuid)
    body = JSON.generate(channel: channel, data: data, uuid: uuid)
    (1..ATTEMPTS).each do |attempt|
      status, answer = send_once(body)
      return check(answer) if status == 200

      again = status.nil? || status == 429 || status >= 500
      raise Failed, "publishing on #{channel}: #{status && "HTTP #{status}: "}#{answer}" if !again || attempt == ATTEMPTS

      sleep 0.25 * attempt
    end
  end

  private

  # Returns the status and the answer. Without an answer, nobody knows whether the message
  # was published, and the status is nil.
  def send_once(body)
    options = { use_ssl: @uri.scheme == "https", open_timeout: 3, read_timeout: 3, write_timeout: 3, max_retries: 0 }
    headers = { "Authorization" => "Bearer #{@secret}", "Content-Type" => "application/json" }
    response = Net::HTTP.start(@uri.host, @uri.port, options) { |http| http.post(@uri.path, body, headers) }
    [response.code.to_i, response.body.to_s[0, 1000].strip]
  rescue *NO_ANSWER => error
    [nil, error.message]
  end

  # Another page, such as one that is there for every address, is no success.
  def check(answer)
    JSON.parse(answer).fetch("uuid")
  rescue JSON::ParserError, KeyError, TypeError, NoMethodError
    raise Failed, "#{@uri} is no endpoint of pushit"
  end
end
