-- The steps, in their order. A page's children come before its acknowledgement.

local duplicates = {}
for n = 0, new - 1 do
    local fingerprint = ARGV[new_at + 2 * n]
    if is_repeat or (fingerprint ~= '' and is_seen(fingerprint)) then
        duplicates[n + 1] = '1'
    else
        put(ARGV[new_at + 2 * n + 1], false)
        pending = pending + 1
        duplicates[n + 1] = '0'
    end
end
duplicates = table.concat(duplicates)
if new > 0 and is_repeat then -- what the lost reply said about these very requests
    duplicates = call('HGET', last_duplicates, worker) or string.rep('0', new)
elseif new > 0 then
    call('HSET', last_duplicates, worker, duplicates)
end

local refused = acknowledged
if acknowledged > 0 and call('EXISTS', late, returning, fatal, unreadable) > 0 then
    for n = acknowledged_at, done_at - 1 do
        if call('HDEL', mine, ARGV[n]) == 1 then
            call('SREM', finished, ARGV[n])
            call('HDEL', late, ARGV[n])
            refused = refused - 1
        elseif acknowledge_late(ARGV[n]) then
            refused = refused - 1
        end
    end
else
    for from = acknowledged_at, done_at - 1, 1000 do
        local to = math.min(from + 999, done_at - 1)
        refused = refused - call('HDEL', mine, unpack(ARGV, from, to))
        call('SREM', finished, unpack(ARGV, from, to))
    end
end
for n = done_at, not_read_at - 1 do
    if call('HEXISTS', mine, ARGV[n]) == 1 then
        call('SADD', finished, ARGV[n])
    end
end
for n = not_read_at, slots_at - 1 do
    local element = call('HGET', mine, ARGV[n])
    if element then -- otherwise another worker has it now, and finds out itself
        call('HDEL', mine, ARGV[n])
        set_aside(unreadable, ARGV[n], element)
    end
end

if is_repeat then
    refused = 0 -- nobody knows what the lost reply said about them
    -- What the lost reply leased goes to other workers: perhaps it was too long to get through.
    local of, leases = string.match(call('HGET', last_leased, worker) or '', '^(%d+)(.*)$')
    for id in string.gmatch(tonumber(of) == number and leases or '', '%d+') do
        local element = call('HGET', mine, id)
        if element then
            call('HDEL', mine, id)
            pending = pending + 1
            give_back(id, element, 'unread', false)
        end
    end
elseif lost then
    take_leases(worker, 'lost') -- there are none, unless somebody has removed keys
    call('ZREM', left, worker)
end
local dead = call('ZRANGEBYSCORE', workers, '-inf', '(' .. now, 'LIMIT', 0, 1)[1]
if dead then
    local _, expected = busy_of(dead)
    come_back = take_leases(dead, 'dead')
    vanished = math.max(expected - come_back, 0)
    forget(dead)
end
come_back_some()

if mode == 'again' then
    wanted = 0 -- a repeat leases nothing
end
-- A suspect is alone in its worker: otherwise innocent pages would be set aside together with the one that kills.
if wanted > 0 then
    local tried = call('HGET', trying, worker)
    local is_trying = tried and call('HEXISTS', mine, tried) == 1 and call('SISMEMBER', finished, tried) == 0
    if is_trying or call('EXISTS', suspects) == 1 then
        while not is_trying and call('HLEN', mine) <= call('SCARD', finished) and call('EXISTS', suspects) == 1 do
            local id = lease(call('LPOP', suspects))
            pending = pending - 1
            if id then
                call('HSET', trying, worker, id)
                is_trying = true
            end
        end
        wanted = 0
    end
end
local capacities, passed = {}, 0
for n = slots_at, new_at - 1, 2 do
    capacities[ARGV[n]] = tonumber(ARGV[n + 1])
end
while wanted > 0 and not is_full do
    local slot = call('ZRANGE', ring, passed, passed)[1]
    if not slot then
        break
    end
    local capacity, before = capacities[slot] or other_capacity, #leased
    if capacity > 0 then
        take(slot, math.min(capacity, math.ceil(wanted / (call('ZCARD', ring) - passed))))
        local taken = (#leased - before) / 2
        capacities[slot] = capacity - taken
        wanted = wanted - taken
    else
        passed = passed + 1 -- of this slot the worker has as many as it can use
    end
end
-- What was pushed from outside, the highest score of a sorted set first.
while wanted > 0 and not is_full and pop_of[pushed_type] do
    local text = call(pop_of[pushed_type], pushed)
    if type(text) == 'table' then
        text = text[1]
    end
    if not text then
        break
    end
    lease('0 \n+' .. text)
    wanted = wanted - 1
end
if #leased > 0 then
    local which = {}
    for n = 1, #leased, 2 do
        which[#which + 1] = leased[n]
    end
    call('HSET', last_leased, worker, number .. ' ' .. table.concat(which, ' '))
end

if mode == 'close' then
    take_leases(worker, 'closed')
    forget(worker)
    come_back_some()
else
    local count = call('HLEN', mine)
    call('HSET', busy, worker, math.max(count - call('SCARD', finished), 0) + hidden .. ' ' .. count)
end
local others, others_busy, others_open = 0, 0, 0
local all = call('HGETALL', busy)
for n = 1, #all, 2 do
    if all[n] ~= worker then
        local at_work, count = busy_of(all[n])
        others, others_busy, others_open = others + 1, others_busy + at_work, others_open + count
    end
end
if #all / 2 ~= call('ZCARD', workers) then
    -- Somebody has removed keys. A worker that is in only one of the two is dead, or reports itself with its next exchange.
    for n = 1, #all, 2 do
        call('ZADD', workers, 'NX', now - 1, all[n])
    end
    others_busy = others_busy + 1
end
if pending > 0 and call('EXISTS', ring, returning, suspects) == 0 then
    vanished, pending = vanished + pending, 0 -- otherwise every worker would wait for these for ever
end
call('HSET', meta, 'pending', pending, 'seen', seen, 'generation', generation, 'ids', ids, 'turn', turn)
for n = 3, #KEYS do
    call('EXPIRE', KEYS[n], 60)
end

local waiting = pending
if count_of[pushed_type] then
    waiting, pushed_type = waiting + call(count_of[pushed_type], pushed), ''
end
local reply = {'', incarnation, lost and 1 or 0, refused, waiting, others, others_busy, others_open, vanished, duplicates,
    come_back, pushed_type == 'none' and '' or pushed_type, call('HLEN', fatal), #new_fatal / 2}
for _, each in ipairs({new_fatal, leased}) do
    for n = 1, #each do
        reply[#reply + 1] = each[n]
    end
end
return reply
