# Copyright 2026 The pushit authors
# SPDX-License-Identifier: Apache-2.0

# Runs examples/rails without Rails: this file has as much of it as the example uses. It
# listens on the Unix socket that is its first argument.

require "cgi"
require "erb"
require "securerandom"
require "socket"
require "time"

APP = "examples/rails/app".freeze
STATUS = { ok: 200, no_content: 204, unauthorized: 401, forbidden: 403, not_found: 404 }.freeze

User = Struct.new(:id, :password)
USERS = { "ann" => User.new("ann", "wonderland"), "bob" => User.new("bob", "builder") }.freeze
SESSIONS = {} # users by their cookies

class Response
  attr_reader :headers, :body
  attr_accessor :status

  def initialize
    @headers = {}
    @body = +""
  end

  def set_header(name, value)
    @headers[name] = value
  end
end

class ApplicationController
  attr_reader :params, :response, :current_user

  def initialize(params, user)
    @params = params
    @current_user = user
    @response = Response.new
  end

  def head(status)
    response.status = STATUS.fetch(status)
  end

  def show
    @order = Order.find_by(id: params[:id])
    response.body << self.class.erb("orders/show.html.erb", binding)
    head :ok
  end

  def self.render(partial:, formats:, locals:)
    dir, name = File.split(partial)
    erb("#{dir}/_#{name}.#{formats.first}.erb", binding.tap { |b| locals.each { |key, value| b.local_variable_set(key, value) } })
  end

  def self.erb(path, scope)
    ERB.new(File.read("#{APP}/views/#{path}")).result(scope)
  end
end

class ApplicationJob
  class << self
    attr_reader :retries

    def retry_on(error, **options)
      @retries = [error, options]
    end

    def perform_later(*arguments)
      new.perform(*arguments)
    end
  end
end

class ApplicationRecord
  attr_reader :id, :user_id, :shipped_at

  def initialize(id, user_id)
    @id = id
    @user_id = user_id
  end

  def self.belongs_to(*); end

  def self.after_update_commit(callback, if:)
    @callback = callback
    @condition = binding.local_variable_get(:if)
  end

  def self.committed(record)
    record.instance_exec(&@callback) if record.public_send(@condition)
  end

  def self.find_by(id:)
    (@all ||= { "1" => new(1, "ann"), "2" => new(2, "bob") })[id]
  end

  def update!(shipped_at:)
    @shipped_at = shipped_at
    self.class.committed(self)
  end

  def saved_change_to_shipped_at?
    true
  end
end

# Rails.application.routes.draw in config/routes.rb
module Rails
  ROUTES = {} # controller#action by path
  def self.application = self
  def self.routes = self
  def self.draw(&block) = class_eval(&block)
  def self.get(path, to:) = ROUTES["/#{path}"] = to
  def self.resources(*, **); end
end

%w[services/push_it models/order jobs/tell_shipped_job controllers/pushit_controller].each { |file| load "#{APP}/#{file}.rb" }
load "#{APP}/../config/routes.rb"

def form(text)
  text.split("&").to_h { |pair| pair.split("=", 2).map { |part| CGI.unescape(part) } }
end

# answer returns the response to a request.
def answer(method, target, user, body)
  path, query = target.split("?", 2)
  controller = ApplicationController.new({ id: path[%r{\A/orders/(\d+)}, 1] }, user)
  case "#{method} #{path}"
  when "POST /login"
    fields = form(body)
    found = USERS[fields["user"]]
    return controller.tap { |c| c.head :forbidden }.response if found.nil? || found.password != fields["password"]

    SESSIONS[cookie = SecureRandom.hex] = found
    controller.response.set_header "Set-Cookie", "_shop_session=#{cookie}; HttpOnly; SameSite=Lax"
    controller.head :no_content
  when %r{\APOST /orders/\d+/ship\z}
    order = Order.find_by(id: controller.params[:id])
    return controller.tap { |c| c.head :forbidden }.response if user.nil? || order&.user_id != user.id

    order.update!(shipped_at: Time.now)
    controller.head :no_content
  when %r{\AGET /orders/\d+\z}
    controller.show
  else
    to = Rails::ROUTES[path]
    return controller.tap { |c| c.head :not_found }.response unless to

    name, action = to.split("#")
    controller = Object.const_get("#{name.capitalize}Controller").new({ channel: form(query.to_s)["channel"] }, user)
    controller.public_send(action)
  end
  controller.response
end

def serve(connection)
  while (line = connection.gets)
    method, target, = line.split
    headers = {}
    while (line = connection.gets.chomp) != ""
      name, value = line.split(": ", 2)
      headers[name.downcase] = value
    end
    body = connection.read(headers.fetch("content-length", 0).to_i)
    user = SESSIONS[headers["cookie"].to_s[/_shop_session=(\h+)/, 1]]
    response = answer(method, target, user, body)
    response.set_header "Content-Length", response.body.bytesize unless response.status == 204
    connection.write("HTTP/1.1 #{response.status} #{STATUS.key(response.status)}\r\n", response.headers.map { |pair| "#{pair.join(": ")}\r\n" }.join, "\r\n", response.body)
  end
rescue SystemCallError, IOError => error
  warn error.message
ensure
  connection.close
end

trap("INT") { exit }
server = UNIXServer.new(ARGV.fetch(0))
loop { Thread.new(server.accept) { |connection| serve(connection) } }
