// A backend for pushit's guard ask. It answers each request, so make sure that only Caddy
// can reach it.
import { createServer } from 'node:http'
import { json } from 'node:stream/consumers'

const users = new Map([ // by token
  ['ann-secret', { user: 'ann', claims: { role: 'editor' } }],
  ['bob-secret', { user: 'bob', claims: { role: 'reader' } }],
])

const yes = (answer = {}) => ({ status: 200, type: 'application/json', body: JSON.stringify(answer) })
const no = (reason, status = 403) => ({ status, type: 'text/plain; charset=utf-8', body: reason })

function answer({ gate, channel, agent, message, credentials }) {
  if (gate === 'connect') {
    const user = users.get(credentials?.token)
    return user ? yes(user) : no('wrong token')
  }
  if (gate === 'subscribe') {
    const mine = agent.user !== null && channel === `users/${agent.user}`
    return mine || channel === 'news' ? yes() : no('this channel is not yours')
  }
  if (gate !== 'publish') return no('not a question', 400)
  if (channel !== 'news' || agent.claims?.role !== 'editor') return no('only editors write here')
  const text = String(message.data?.text ?? '').trim()
  return text === '' ? { status: 204 } : yes({ data: { from: agent.user, text } })
}

// Caddy keeps a connection for 2 minutes. It does not ask again when it finds out that the
// connection is gone, so we keep it for longer.
createServer({ keepAliveTimeout: 150_000 }, async (request, response) => {
  const { status, type, body } = await json(request).then(answer).catch(() => no('not a question', 400))
  response.writeHead(status, type && { 'Content-Type': type }).end(body)
}).listen(process.env.PORT ?? 8081, '127.0.0.1')
